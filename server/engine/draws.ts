/** How the next tokens of a batch are chosen, as the kernels take it: one call for all rows. */
import { native, type Handle } from '../../kernels/index.js';

/** Of one row. */
export interface Draw {
  /** 0: the largest logit. */
  readonly temperature: number;
  /** 0: all. */
  readonly topK: number;
  readonly topP: number;
  /** In [0, 1). */
  readonly uniform: number;
  /** Added to the logits of these ids for this draw alone. */
  readonly deltas: ReadonlyMap<number, number>;
}

export const GREEDY: Draw = { temperature: 0, topK: 0, topP: 1, uniform: 0, deltas: new Map() };

const SETTINGS = 4;

/** Of all rows. */
export interface PackedDraws {
  /** (rows, 4): temperature, topK, topP, uniform. */
  readonly settings: Float64Array;
  /** Deltas of each row: no step with any can be recorded. */
  readonly counts: Int32Array;
  readonly ids: Int32Array;
  readonly deltas: Float32Array;
}

export function packDraws(draws: readonly Draw[]): PackedDraws {
  const settings = new Float64Array(SETTINGS * draws.length);
  draws.forEach(({ temperature, topK, topP, uniform }, row) =>
    settings.set([temperature, topK, topP, uniform], SETTINGS * row),
  );
  return {
    settings,
    counts: Int32Array.from(draws, ({ deltas }) => deltas.size),
    ids: Int32Array.from(draws.flatMap(({ deltas }) => [...deltas.keys()])),
    deltas: Float32Array.from(draws.flatMap(({ deltas }) => [...deltas.values()])),
  };
}

/** A token of each of the first rows of `logits` (rows, V), which stay as they are. */
export function drawTokens(logits: Handle, vocab: number, draws: PackedDraws, tokens: Int32Array): void {
  native.sample(logits, vocab, draws.settings, draws.counts, draws.ids, draws.deltas, tokens);
}
