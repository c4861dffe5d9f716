/** Where a mask starts: one-shot pruning calibrated on the training text, or the mask of the task that it is transferred from. */
import type { Mask, MaskSet } from '../../codec/mask-set.js';
import { symbolsToNibbles } from '../../codec/pattern.js';
import type { Model } from '../engine/model.js';
import { matricesOf } from '../engine/weights.js';
import { sampleWindows } from './calibrate.js';
import { CALIBRATION_DAMP, CALIBRATION_WINDOWS } from './defaults.js';
import { oneShotMask, type OneShotMethod } from './one-shot.js';

/** Tokens of a calibration window at most: one chunk of the engine. */
const WINDOW_TOKENS = 256;

/** Nibbles of each matrix by name: (rows · cols / 8) bytes. */
export type NibblesByName = ReadonlyMap<string, Uint8Array>;

export interface Calibrating {
  readonly streams: readonly Int32Array[];
  readonly seq: number;
  readonly seed: number;
  readonly onProgress?: (done: number, of: number) => void;
}

/** A one-shot mask of the masked layers. */
export function oneShotPrior(model: Model, masked: Model, method: OneShotMethod, text: Calibrating): NibblesByName {
  const windows = method === 'magnitude' ? [] : calibrationWindows(text);
  const { onProgress } = text;
  const set = oneShotMask(model, { method, windows, damp: CALIBRATION_DAMP, ...(onProgress ? { onProgress } : {}) });
  return nibblesOfSet(masked, set);
}

/** Windows of the training text that one-shot pruning looks at. */
export function calibrationWindows({ streams, seq, seed }: Calibrating): Int32Array[] {
  return sampleWindows(streams, CALIBRATION_WINDOWS, Math.min(seq, WINDOW_TOKENS), seed);
}

/** The masks that `set` has for the masked layers. Throws one line when it is for other weights, not 2:4, or lacks a matrix. */
export function nibblesOfSet(masked: Model, set: MaskSet): NibblesByName {
  const { base } = masked.info;
  if (set.base !== base) {
    throw new Error(`expected a mask to start from for the base weights ${base}, but it is for ${set.base}`);
  }
  if (set.n !== 2 || set.m !== 4) throw new Error(`expected a 2:4 mask to start from, but it is ${set.n}:${set.m}`);
  const masks = new Map(set.masks.map((mask) => [mask.name, mask]));
  return new Map(
    matricesOf(masked.weights).map(({ name, rows, cols }) => {
      const mask: Mask | undefined = masks.get(name);
      if (mask?.rows === rows && mask.cols === cols) return [name, symbolsToNibbles(mask.symbols)];
      throw new Error(
        `expected the mask to start from to cover ${name} (${rows}x${cols}), but it does not; keep its layer dense by --keep-dense`,
      );
    }),
  );
}
