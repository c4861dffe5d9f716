/** Looks at held-out text during a run: perplexity of the mask as it stands, how far it is from its start, and the best one seen. */
import type { Handle } from '../../kernels/index.js';
import { windowNll } from '../engine/evaluate.js';
import { KvCache } from '../engine/kv-cache.js';
import type { Model } from '../engine/model.js';
import type { TaskWeights } from '../engine/types.js';
import { matricesOf, type DenseMatrix } from '../engine/weights.js';
import type { BestMask } from './checkpoint.js';
import { freeTask, maskedTask } from './masked-perplexity.js';
import { patternOf, type MaskedModel } from './n-of-m.js';
import { addRates, bitsPerParameter, changedShare, NO_RATE, rateOf, type Rate } from './rate.js';
import { byMatrix, gatherCodes, type CodesByName } from './nibbles.js';
import type { Look } from './run-steps.js';
import type { HeldOutText } from './run-text.js';

/** Perplexity of each text under a mask; null: dense. `weightOf`: other weights (rows, cols) bf16 than the model's. */
export function perplexities(
  masked: MaskedModel,
  texts: readonly HeldOutText[],
  seq: number,
  codesOf: ((matrix: DenseMatrix) => Uint8Array) | null,
  weightOf?: (matrix: DenseMatrix) => Handle,
): number[] {
  const task = codesOf && maskedTask(masked, codesOf, weightOf);
  try {
    return texts.map(({ windows }) => perplexityOf(masked, windows, seq, task));
  } finally {
    if (task) freeTask(task);
  }
}

function perplexityOf(model: Model, windows: readonly Int32Array[], seq: number, task: TaskWeights | null): number {
  const cache = new KvCache(model.config, seq);
  try {
    const nll = windows.reduce((sum, ids) => sum + windowNll(model, ids, cache, task), 0);
    return Math.exp(nll / (windows.length * seq));
  } finally {
    cache.dispose();
  }
}

export function average(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Distance of a mask from another. */
export function distance(masked: MaskedModel, from: CodesByName, to: (matrix: DenseMatrix) => Uint8Array): Rate {
  let rate = NO_RATE;
  for (const matrix of matricesOf(masked.weights)) {
    rate = addRates(rate, rateOf(from.get(matrix.name) as Uint8Array, to(matrix), patternOf(masked)));
  }
  return rate;
}

export class MaskLooks {
  private readonly own: readonly HeldOutText[];

  /** `best`: of the run that is resumed. */
  constructor(
    private readonly masked: MaskedModel,
    texts: readonly HeldOutText[],
    private readonly seq: number,
    private readonly start: CodesByName,
    public best: BestMask | undefined,
  ) {
    this.own = texts.filter(({ guard }) => !guard);
  }

  /** Scores the mask after `step` steps. Of equals the later is kept: it has seen more text. */
  look(step: number, codesOf: (matrix: DenseMatrix) => Uint8Array): Look {
    const nibbles = gatherCodes(this.masked, codesOf);
    const saved = byMatrix(nibbles);
    const perplexity = average(perplexities(this.masked, this.own, this.seq, saved));
    if (!this.best || perplexity <= this.best.perplexity) this.best = { step, perplexity, nibbles };
    const rate = distance(this.masked, this.start, saved);
    return {
      changed: changedShare(rate),
      bitsPerParameter: bitsPerParameter(rate, patternOf(this.masked).m),
      heldOutPerplexity: perplexity,
    };
  }
}
