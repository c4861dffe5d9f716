/** Where the kept weights of a base start: SparseGPT's mask and its updated weights (arXiv 2301.00774), or a given mask on the original ones. */
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import type { Model } from '../engine/model.js';
import { matricesOf, type DenseMatrix } from '../engine/weights.js';
import { Buffers } from './activations.js';
import { KeptWeights } from './kept-weights.js';
import { byMatrix, type NibblesByName } from './nibbles.js';
import { oneShotPrior, type Calibrating } from './run-prior.js';

/** Learner and mask. Pruned positions have the original's values, so that a task can swap them in. */
export interface Start {
  readonly learner: KeptWeights;
  readonly mask: NibblesByName;
}

/** Prunes the masked layers by SparseGPT; kept weights start as it updated them. */
export function sparseGptStart(
  model: Model,
  masked: Model,
  text: Calibrating,
  onProgress?: (done: number, of: number) => void,
): Start {
  return updatedStart(masked, (updated) =>
    oneShotPrior(model, masked, 'sparsegpt', text, { updated, ...(onProgress ? { onProgress } : {}) }),
  );
}

/** `prune` chooses the mask of the masked layers, and writes each matrix's updated weights, (rows, cols) bf16, where `updated` says: there start the kept ones. */
export function updatedStart(masked: Model, prune: (updated: (matrix: DenseMatrix) => Handle) => NibblesByName): Start {
  const buffers = new Buffers();
  const updates = new Map<string, Handle>();
  const wanted = new Set(matricesOf(masked.weights).map(({ name }) => name));
  const updated = (matrix: DenseMatrix): Handle => {
    if (!wanted.has(matrix.name)) return NO_BUFFER;
    const buffer = buffers.alloc(matrix.rows * matrix.cols * 2);
    updates.set(matrix.name, buffer);
    return buffer;
  };
  try {
    const mask = prune(updated);
    const learner = new KeptWeights(masked.weights, byMatrix(mask), (matrix, into) =>
      mergeKept(into, matrix, updates.get(matrix.name) as Handle, mask.get(matrix.name) as Uint8Array),
    );
    return { learner, mask };
  } finally {
    buffers.dispose();
  }
}

/** Starts from the original weights under `mask`. */
export function originalStart(masked: Model, mask: NibblesByName): Start {
  const learner = new KeptWeights(masked.weights, byMatrix(mask), (matrix, into) =>
    native.toF32(into, matrix.weight, 'bf16', matrix.rows * matrix.cols),
  );
  return { learner, mask };
}

/** into (rows, cols) f32 ← `updated` bf16 where `nibbles` keep, the original elsewhere: row by row through small arrays. */
function mergeKept(into: Handle, { rows, cols, weight }: DenseMatrix, updated: Handle, nibbles: Uint8Array): void {
  native.toF32(into, weight, 'bf16', rows * cols);
  const [original, update] = [new Float32Array(cols), new Uint16Array(cols)];
  const bits = new Uint32Array(original.buffer);
  for (let row = 0; row < rows; row++) {
    native.read(into, row * cols * 4, original);
    native.read(updated, row * cols * 2, update);
    const first = (row * cols) / 4;
    for (let group = 0; group < cols / 4; group++) {
      const nibble = ((nibbles[(first + group) >> 1] as number) >> (((first + group) & 1) * 4)) & 15;
      for (const position of [nibble & 3, nibble >> 2]) {
        bits[group * 4 + position] = (update[group * 4 + position] as number) << 16; // bf16 is the upper half of an f32
      }
    }
    native.write(into, row * cols * 4, original);
  }
}
