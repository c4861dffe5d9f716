/** Computes cells on one loaded model, each once. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { MaskSet } from '../../codec/mask-set.js';
import { native, type Handle } from '../../kernels/index.js';
import { tokenStream } from '../../server/engine/evaluate.js';
import { loadModel, type Model } from '../../server/engine/model.js';
import type { DenseMatrix } from '../../server/engine/weights.js';
import { Buffers } from '../../server/trainer/activations.js';
import { sampleWindows } from '../../server/trainer/calibrate.js';
import { CALIBRATION_DAMP, PREPARE_DEFAULTS } from '../../server/trainer/defaults.js';
import { perplexities } from '../../server/trainer/held-out.js';
import { byMatrix, codesOfSet } from '../../server/trainer/nibbles.js';
import { oneShotMask } from '../../server/trainer/one-shot.js';
import { runPrepare } from '../../server/trainer/prepare.js';
import { runTraining } from '../../server/trainer/run.js';
import type { HeldOutText } from '../../server/trainer/run-text.js';
import type { TrainSource } from '../../server/trainer/types.js';
import { WINDOW_TOKENS } from './budget.js';
import type { CellCache } from './cell-cache.js';
import type { Cell, CellResult, FineTunedCell, LearnedCell, MaskCell, OneShotCell, Text } from './cells.js';
import type { Domains } from './domains.js';

/** Times the tokens of the calibration windows that are read of each domain. */
const TOKENS_TO_DRAW_FROM = 4;

/** Where a cell is. */
export type OnProgress = (stage: string, done: number, of: number) => void;

interface Computed {
  readonly result: Omit<CellResult, 'seconds'>;
  readonly mask?: MaskSet;
}

export class CellRunner {
  private readonly valid: readonly HeldOutText[];

  /** `windows`: of each domain's valid text that are scored. */
  constructor(
    private readonly model: Model,
    private readonly domains: Domains,
    private readonly cache: CellCache,
    windows: number,
  ) {
    this.valid = domains.valid.map((source) => validWindows(model, source, windows));
  }

  /** Takes the result from the cache, or computes and stores it. */
  async run(cell: Cell, onProgress: OnProgress): Promise<CellResult> {
    const known = this.cache.result(cell);
    if (known) return known;
    const began = performance.now();
    const { result, mask } = await this.compute(cell, onProgress);
    const timed = { ...result, seconds: (performance.now() - began) / 1000 };
    this.cache.store(cell, timed, mask);
    return timed;
  }

  private async compute(cell: Cell, onProgress: OnProgress): Promise<Computed> {
    switch (cell.kind) {
      case 'dense':
        return { result: { perplexities: this.byDomain(perplexities(this.model, this.valid, WINDOW_TOKENS, null)) } };
      case 'one-shot':
        return this.oneShot(cell, onProgress);
      case 'learned':
        return this.learned(cell, onProgress);
      case 'fine-tuned':
        return this.fineTuned(cell, onProgress);
    }
  }

  private oneShot(cell: OneShotCell, onProgress: OnProgress): Computed {
    const { method, update, seed, calibrationWindows } = cell;
    const buffers = new Buffers();
    const weights = new Map<string, Handle>();
    const updated = ({ name, rows, cols }: DenseMatrix): Handle => {
      const buffer = buffers.alloc(rows * cols * 2);
      weights.set(name, buffer);
      return buffer;
    };
    try {
      const windows = method === 'magnitude' ? [] : this.calibration(cell.text, calibrationWindows, seed);
      const mask = oneShotMask(this.model, {
        method,
        windows,
        damp: CALIBRATION_DAMP,
        onProgress: (done, of) => onProgress('calibrating', done, of),
        ...(update ? { updated } : {}),
      });
      const weightOf = update ? ({ name }: DenseMatrix): Handle => weights.get(name) as Handle : undefined;
      return { result: { perplexities: this.score(mask, weightOf) }, mask };
    } finally {
      buffers.dispose();
    }
  }

  private async learned({ from, text, settings }: LearnedCell, onProgress: OnProgress): Promise<Computed> {
    const parent = from && (await this.mask(from, onProgress));
    const request = { task: 'cell', sources: this.sources(text), guards: [], settings, force: true };
    const events = runTraining(this.model, request, { onProgress, ...(parent ? { parent } : {}) });
    let [changed, bitsPerParameter] = [0, 0];
    let next = await events.next();
    for (; !next.done; next = await events.next()) {
      const event = next.value;
      if (event.type === 'step') onProgress(`loss ${event.loss.toFixed(3)}, step`, event.step, event.steps);
      if (event.type === 'finished') ({ changed, bitsPerParameter } = event);
    }
    return { result: { perplexities: this.score(next.value), changed, bitsPerParameter }, mask: next.value };
  }

  private async fineTuned({ mask, steps, batch, seq }: FineTunedCell, onProgress: OnProgress): Promise<Computed> {
    const set = await this.mask(mask, onProgress);
    const scratch = mkdtempSync(join(tmpdir(), 'maskserve-reproduce-'));
    try {
      const phases = [{ klWeight: 0, steps }];
      const settings = { ...PREPARE_DEFAULTS, phases, batch, seq, evaluateEvery: 0, evaluateWindows: 1 };
      const request = { sources: this.sources('all'), heldOut: [], settings, force: true };
      const out = join(scratch, 'model');
      for await (const event of runPrepare(this.model, request, { out, mask: set, onProgress })) {
        if (event.type === 'step') onProgress(`loss ${event.loss.toFixed(3)}, step`, event.step, event.steps);
      }
      return { result: { perplexities: this.scoreModel(out, set) } };
    } finally {
      rmSync(scratch, { recursive: true, force: true });
    }
  }

  private async mask(cell: MaskCell, onProgress: OnProgress): Promise<MaskSet> {
    await this.run(cell, onProgress);
    const mask = this.cache.mask(cell);
    if (!mask) throw new Error(`expected the mask of cell ${this.cache.key(cell)} in the cache; remove its .json file`);
    return mask;
  }

  private score(mask: MaskSet, weightOf?: (matrix: DenseMatrix) => Handle): Record<string, number> {
    const nibbles = byMatrix(codesOfSet(this.model, mask));
    return this.byDomain(perplexities(this.model, this.valid, WINDOW_TOKENS, nibbles, weightOf));
  }

  /** A model directory under a mask that is for other weights of the same shape. */
  private scoreModel(directory: string, mask: MaskSet): Record<string, number> {
    const tuned = loadModel(directory, { threads: native.info().threads });
    try {
      const nibbles = byMatrix(codesOfSet(tuned, { ...mask, base: tuned.info.base }));
      return this.byDomain(perplexities(tuned, this.valid, WINDOW_TOKENS, nibbles));
    } finally {
      tuned.dispose();
    }
  }

  private calibration(text: Text, count: number, seed: number): Int32Array[] {
    const sources = this.sources(text);
    const limit = (TOKENS_TO_DRAW_FROM * count * WINDOW_TOKENS) / sources.length;
    const streams = sources.map(({ documents }) => tokenStream(this.model, documents, { bos: true, limit }));
    return sampleWindows(streams, count, WINDOW_TOKENS, seed);
  }

  private sources(text: Text): readonly TrainSource[] {
    const names = text === 'all' ? this.domains.names : [text.domain];
    return names.map((name) => this.domains.train.get(name) as TrainSource);
  }

  private byDomain(values: readonly number[]): Record<string, number> {
    return Object.fromEntries(this.domains.names.map((name, i) => [name, values[i] as number]));
  }
}

function validWindows(model: Model, { name, documents }: TrainSource, count: number): HeldOutText {
  const stream = tokenStream(model, documents, { bos: true, limit: count * WINDOW_TOKENS + 1 });
  const available = Math.min(count, Math.floor((stream.length - 1) / WINDOW_TOKENS));
  if (available < 1) throw new Error(`expected more than ${WINDOW_TOKENS} tokens of valid text in ${name}`);
  const windows = Array.from({ length: available }, (_, i) =>
    stream.subarray(i * WINDOW_TOKENS, (i + 1) * WINDOW_TOKENS + 1),
  );
  return { source: name, guard: false, windows };
}
