/** Where a mask starts when it is not transferred: one-shot pruning calibrated on the training text, refined by swaps if asked for. */
import type { Model } from '../engine/model.js';
import { sampleWindows } from './calibrate.js';
import { CALIBRATION_DAMP, CALIBRATION_WINDOWS } from './defaults.js';
import { isTwoOfFour, patternOf, type MaskedModel } from './n-of-m.js';
import { codesOfSet, type CodesByName } from './nibbles.js';
import { refineMasks } from './refine.js';
import { calibrationBytes, oneShotMask, type OneShotMethod, type OneShotOptions } from './one-shot.js';

/** Tokens of a calibration window at most: one chunk of the engine. */
const WINDOW_TOKENS = 256;

export interface Calibrating {
  readonly streams: readonly Int32Array[];
  readonly seq: number;
  readonly seed: number;
  /** Rounds of swaps at most; 0 or undefined: none. */
  readonly refine?: number;
}

/** A one-shot mask of the masked layers. */
export function oneShotPrior(
  model: Model,
  masked: MaskedModel,
  method: OneShotMethod,
  text: Calibrating,
  hooks: Pick<OneShotOptions, 'onProgress' | 'updated'> = {},
): CodesByName {
  const { refine = 0 } = text;
  const pattern = patternOf(masked);
  if (refine > 0 && !isTwoOfFour(pattern)) {
    throw new Error(
      `expected --pattern 2:4 beside --refine, which exchanges pairs of four, but received ${pattern.n}:${pattern.m}`,
    );
  }
  const windows = method === 'magnitude' && refine === 0 ? [] : calibrationWindows(text);
  const pruned = codesOfSet(
    masked,
    oneShotMask(masked, { method, windows, damp: CALIBRATION_DAMP, pattern, ...hooks }),
  );
  return refine > 0 ? refineMasks(model, masked, pruned, windows, refine, hooks.onProgress).nibbles : pruned;
}

/** Bytes of the statistics that it takes. Refining swaps on SparseGPT's. */
export function priorBytes(masked: MaskedModel, method: OneShotMethod, refine = 0): number {
  return calibrationBytes(masked, refine > 0 ? 'sparsegpt' : method);
}

/** Windows of the training text that one-shot pruning looks at. */
export function calibrationWindows({ streams, seq, seed }: Calibrating): Int32Array[] {
  return sampleWindows(streams, CALIBRATION_WINDOWS, Math.min(seq, WINDOW_TOKENS), seed);
}
