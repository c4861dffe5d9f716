/** Looks at held-out text during a run: perplexity of the mask as it stands, how far it is from its start, and the best one seen. */
import type { Handle } from '../../kernels/index.js';
import { windowNll } from '../engine/evaluate.js';
import { KvCache } from '../engine/kv-cache.js';
import type { Model } from '../engine/model.js';
import type { TaskWeights } from '../engine/types.js';
import { matricesOf, type DenseMatrix } from '../engine/weights.js';
import type { BestMask } from './checkpoint.js';
import { compactTask, freeTask } from './masked-perplexity.js';
import { addRates, bitsPerParameter, changedShare, NO_RATE, rateOf, type Rate } from './rate.js';
import { byMatrix, gatherNibbles, type NibblesByName } from './nibbles.js';
import type { Look } from './run-steps.js';
import type { HeldOutText } from './run-text.js';

/** Perplexity of each text under a mask; null: dense. `weightOf`: other weights (rows, cols) bf16 than the model's. */
export function perplexities(
  masked: Model,
  texts: readonly HeldOutText[],
  seq: number,
  nibblesOf: ((matrix: DenseMatrix) => Uint8Array) | null,
  weightOf?: (matrix: DenseMatrix) => Handle,
): number[] {
  const task = nibblesOf && compactTask(masked, nibblesOf, weightOf);
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
export function distance(masked: Model, from: NibblesByName, to: (matrix: DenseMatrix) => Uint8Array): Rate {
  let rate = NO_RATE;
  for (const matrix of matricesOf(masked.weights)) {
    rate = addRates(rate, rateOf(from.get(matrix.name) as Uint8Array, to(matrix)));
  }
  return rate;
}

export class MaskLooks {
  private readonly own: readonly HeldOutText[];

  /** `best`: of the run that is resumed. */
  constructor(
    private readonly masked: Model,
    texts: readonly HeldOutText[],
    private readonly seq: number,
    private readonly start: NibblesByName,
    public best: BestMask | undefined,
  ) {
    this.own = texts.filter(({ guard }) => !guard);
  }

  /** Scores the mask after `step` steps. Of equals the later is kept: it has seen more text. */
  look(step: number, nibblesOf: (matrix: DenseMatrix) => Uint8Array): Look {
    const nibbles = gatherNibbles(this.masked, nibblesOf);
    const saved = byMatrix(nibbles);
    const perplexity = average(perplexities(this.masked, this.own, this.seq, saved));
    if (!this.best || perplexity <= this.best.perplexity) this.best = { step, perplexity, nibbles };
    const rate = distance(this.masked, this.start, saved);
    return {
      changed: changedShare(rate),
      bitsPerParameter: bitsPerParameter(rate),
      heldOutPerplexity: perplexity,
    };
  }
}
