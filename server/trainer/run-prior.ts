/** Where a mask starts when it is not transferred: one-shot pruning calibrated on the training text. */
import type { Model } from '../engine/model.js';
import { sampleWindows } from './calibrate.js';
import { CALIBRATION_DAMP, CALIBRATION_WINDOWS } from './defaults.js';
import { nibblesOfSet, type NibblesByName } from './nibbles.js';
import { oneShotMask, type OneShotMethod, type OneShotOptions } from './one-shot.js';

/** Tokens of a calibration window at most: one chunk of the engine. */
const WINDOW_TOKENS = 256;

export interface Calibrating {
  readonly streams: readonly Int32Array[];
  readonly seq: number;
  readonly seed: number;
}

/** A one-shot mask of the masked layers. */
export function oneShotPrior(
  model: Model,
  masked: Model,
  method: OneShotMethod,
  text: Calibrating,
  hooks: Pick<OneShotOptions, 'onProgress' | 'updated'> = {},
): NibblesByName {
  const windows = method === 'magnitude' ? [] : calibrationWindows(text);
  return nibblesOfSet(masked, oneShotMask(model, { method, windows, damp: CALIBRATION_DAMP, ...hooks }));
}

/** Windows of the training text that one-shot pruning looks at. */
function calibrationWindows({ streams, seq, seed }: Calibrating): Int32Array[] {
  return sampleWindows(streams, CALIBRATION_WINDOWS, Math.min(seq, WINDOW_TOKENS), seed);
}
