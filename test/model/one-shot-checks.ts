/** One-shot masks by server/trainer, through compress24 and matmul24, against the yardstick's perplexities on models/tiny. */
import { join } from 'node:path';
import type { MaskSet } from '../../codec/mask-set.js';
import { symbolsToNibbles } from '../../codec/pattern.js';
import { native } from '../../kernels/index.js';
import { evaluate, tokenStream } from '../../server/engine/evaluate.js';
import type { Model } from '../../server/engine/model.js';
import type { CompactedMatrix, TaskWeights } from '../../server/engine/types.js';
import { sampleWindows } from '../../server/trainer/calibrate.js';
import { ONE_SHOT_METHODS, oneShotMask, type OneShotMethod } from '../../server/trainer/one-shot.js';
import type { Check } from './checks.js';
import { documentsOf, oneShotReference, type EvaluationSettings, type OneShotRow } from './reference.js';

/** The yardstick's draw of calibration text: 16 batches of 16 windows of 256 tokens. */
const CALIBRATION = { windows: 256, length: 256, seed: 7, damp: 0.01 };
const DATA_SEED = '7';

interface Bar {
  readonly what: string;
  readonly reference: OneShotRow;
  readonly domains: readonly string[];
  readonly tolerance: number;
}

/** Prunes `model` with every method on `data`/DOMAIN.train.jsonl and evaluates on DOMAIN.valid.jsonl. */
export function* checkOneShot(model: Model, data: string, settings: EvaluationSettings): Generator<Check> {
  const domains = Object.keys(oneShotReference().rows.dense).filter((domain) => domain !== 'average');
  const streams = domains.map((domain) => {
    const { bos, separator } = settings;
    return tokenStream(model, documentsOf(join(data, `${domain}.train.jsonl`)), { bos, separator });
  });
  const windows = sampleWindows(streams, CALIBRATION.windows, CALIBRATION.length, CALIBRATION.seed);
  for (const method of ONE_SHOT_METHODS) {
    const task = compact(model, oneShotMask(model, { method, windows, damp: CALIBRATION.damp }));
    try {
      const found = perplexities(model, task, data, domains, settings);
      for (const bar of barsOf(method, domains)) yield* hold(bar, found);
    } finally {
      free(task);
    }
  }
}

/** Magnitude needs no data, so every domain must agree; the others depend on what was drawn. */
function barsOf(method: OneShotMethod, domains: readonly string[]): Bar[] {
  const { magnitude, magnitudeLowerFirst, wanda, sparsegpt } = oneShotReference().rows;
  if (method === 'magnitude') {
    return [
      { what: 'magnitude', reference: magnitude, domains, tolerance: 0.003 },
      { what: 'magnitude, ties as ours', reference: magnitudeLowerFirst, domains, tolerance: 0.0005 },
    ];
  }
  const reference = (method === 'wanda' ? wanda : sparsegpt)[DATA_SEED] as OneShotRow;
  return [{ what: method, reference, domains: ['average'], tolerance: 0.015 }];
}

function* hold({ what, reference, domains, tolerance }: Bar, found: OneShotRow): Generator<Check> {
  for (const domain of domains) {
    const [ours, expected] = [found[domain] as number, reference[domain] as number];
    const difference = ours / expected - 1;
    yield {
      what: `${what}: perplexity, ${domain}`,
      ours: `${ours.toFixed(4)} (${(100 * difference).toFixed(3)}%)`,
      reference: expected.toFixed(3),
      bar: `within ${100 * tolerance}%`,
      passed: Math.abs(difference) <= tolerance,
    };
  }
}

function perplexities(
  model: Model,
  weights: TaskWeights,
  data: string,
  domains: readonly string[],
  { window, windows, bos, separator }: EvaluationSettings,
): OneShotRow {
  const row: Record<string, number> = {};
  for (const domain of domains) {
    const documents = documentsOf(join(data, `${domain}.valid.jsonl`));
    row[domain] = evaluate(model, { documents, windows, windowLength: window, separator, bos, weights }).ppl;
  }
  row['average'] = Object.values(row).reduce((sum, ppl) => sum + ppl, 0) / domains.length;
  return row;
}

/** The masks over the model's weights, as a task would be resident. */
function compact(model: Model, { masks }: MaskSet): TaskWeights {
  const matrices: Record<string, CompactedMatrix> = {};
  let bytes = 0;
  for (const { name, rows, cols, weight } of model.info.maskable) {
    const mask = masks.find((each) => each.name === name);
    if (!mask) throw new Error(`expected a mask for ${name}`);
    const meta = native.alloc((rows * cols) / 8);
    const packed = native.alloc((rows * cols * 9) / 8);
    native.write(meta, 0, symbolsToNibbles(mask.symbols));
    native.compress24(packed, weight, meta, rows, cols);
    native.free(meta);
    matrices[name] = { packed };
    bytes += (rows * cols * 9) / 8;
  }
  return { digest: '0'.repeat(64), matrices, bytes };
}

function free({ matrices }: TaskWeights): void {
  for (const { packed } of Object.values(matrices)) native.free(packed);
}
