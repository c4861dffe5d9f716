/**
 * Where the kept weights of a base start under a refined mask: SparseGPT chooses it, swaps lower the layers' error (refine.ts), and SparseGPT's weight update is made anew for exactly that mask, by
 * plain loops.
 */
import { native } from '../../kernels/index.js';
import type { Model } from '../engine/model.js';
import type { DenseMatrix } from '../engine/weights.js';
import { calibrate, type Calibration } from './calibrate.js';
import { CALIBRATION_DAMP } from './defaults.js';
import { symbolsOf, TWO_OF_FOUR } from './n-of-m.js';
import type { NibblesByName } from './nibbles.js';
import { batchesWithin } from './one-shot.js';
import type { Parameter } from './optimizer.js';
import { originalStart, type Start } from './prepare-start.js';
import { calibrationWindows, oneShotPrior, type Calibrating } from './run-prior.js';
import { InputHessian } from './sparsegpt.js';

/** Prunes the masked layers; kept weights start as the update for the mask leaves them, pruned positions have the original's values. `text.refine`: rounds of swaps at most. */
export function refinedStart(
  model: Model,
  masked: Model,
  text: Calibrating,
  onProgress?: (stage: string, done: number, of: number) => void,
): Start {
  const report = (stage: string) => (done: number, of: number) => onProgress?.(stage, done, of);
  const mask = oneShotPrior(model, masked, 'sparsegpt', text, { onProgress: report('sparsegpt, refined') });
  const start = originalStart(masked, mask);
  try {
    const windows = calibrationWindows(text);
    const batches = batchesWithin(masked, 'gram');
    const progress = report('updating weights');
    let done = 0;
    for (const groups of batches) {
      const update = (calibration: Calibration): void => {
        for (const group of groups) updateGroup(group as [DenseMatrix, ...DenseMatrix[]], calibration, start, mask);
      };
      calibrate(model, groups, windows, 'gram', update, () => progress(++done, batches.length * windows.length));
    }
    return start;
  } catch (error) {
    start.learner.dispose();
    throw error;
  }
}

/** Updates the matrices of one input. */
function updateGroup(
  group: readonly [DenseMatrix, ...DenseMatrix[]],
  { of, tokens }: Calibration,
  { learner }: Start,
  mask: NibblesByName,
): void {
  const [first] = group;
  const gram = new Float64Array(first.cols * first.cols);
  native.read(of(first), 0, gram);
  const hessian = new InputHessian(gram, tokens, first.cols, CALIBRATION_DAMP);
  for (const matrix of group) {
    const symbols = symbolsOf(TWO_OF_FOUR, mask.get(matrix.name) as Uint8Array);
    const { updated } = hessian.prune(matrix, TWO_OF_FOUR, symbols);
    const parameter = learner.parameters.find(({ name }) => name === matrix.name);
    keepUpdated(parameter as Parameter, symbols, updated);
  }
}

/** values ← `updated` where kept. */
function keepUpdated({ values, count }: Parameter, symbols: Uint8Array, updated: Float32Array): void {
  const merged = new Float32Array(count);
  native.read(values, 0, merged);
  symbols.forEach((symbol, group) => {
    for (const position of TWO_OF_FOUR.positions[symbol] as readonly number[]) {
      merged[group * 4 + position] = updated[group * 4 + position] as number;
    }
  });
  native.write(values, 0, merged);
}
