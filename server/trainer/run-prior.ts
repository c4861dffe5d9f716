/** Where a mask starts when it is not transferred: one-shot pruning calibrated on the training text, refined by swaps if asked for. */
import type { Model } from '../engine/model.js';
import { sampleWindows } from './calibrate.js';
import { CALIBRATION_DAMP, CALIBRATION_WINDOWS } from './defaults.js';
import { nibblesOfSet, type NibblesByName } from './nibbles.js';
import { refineMasks } from './refine.js';
import { oneShotMask, type OneShotMethod, type OneShotOptions } from './one-shot.js';

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
  masked: Model,
  method: OneShotMethod,
  text: Calibrating,
  hooks: Pick<OneShotOptions, 'onProgress' | 'updated'> = {},
): NibblesByName {
  const { refine = 0 } = text;
  const windows = method === 'magnitude' && refine === 0 ? [] : calibrationWindows(text);
  const pruned = nibblesOfSet(masked, oneShotMask(model, { method, windows, damp: CALIBRATION_DAMP, ...hooks }));
  return refine > 0 ? refineMasks(model, masked, pruned, windows, refine, hooks.onProgress).nibbles : pruned;
}

/** Windows of the training text that one-shot pruning looks at. */
function calibrationWindows({ streams, seq, seed }: Calibrating): Int32Array[] {
  return sampleWindows(streams, CALIBRATION_WINDOWS, Math.min(seq, WINDOW_TOKENS), seed);
}
