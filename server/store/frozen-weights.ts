/** The frozen weights as the codec wants them: where the engine has them, for native coders; else bf16 bit patterns of one matrix, copied when a coder asks. */
import type { NativeBuffers, WeightsLookup } from '../../codec/context.js';
import { native, NO_BUFFER } from '../../kernels/index.js';
import type { MaskableMatrix } from '../engine/types.js';

/** Remembers the last matrix: a decoder asks once a chunk. A matrix without a buffer has no weights (tests of the store alone). */
export function frozenWeights(matrices: readonly MaskableMatrix[]): WeightsLookup {
  const byName = new Map(matrices.map((matrix) => [matrix.name, matrix]));
  let last: { readonly name: string; readonly bits: Uint16Array } | undefined;
  return (name) => {
    if (last?.name === name) return last.bits;
    const matrix = byName.get(name);
    if (matrix === undefined || matrix.weight === NO_BUFFER) return undefined;
    const bits = new Uint16Array(matrix.rows * matrix.cols);
    native.read(matrix.weight, 0, bits);
    last = { name, bits };
    return bits;
  };
}

export function frozenBuffers(matrices: readonly MaskableMatrix[]): NonNullable<NativeBuffers['weights']> {
  const byName = new Map(matrices.map((matrix) => [matrix.name, matrix]));
  return ({ name, rows, cols }) => {
    const matrix = byName.get(name);
    if (matrix?.rows !== rows || matrix.cols !== cols || matrix.weight === NO_BUFFER) return undefined;
    return matrix.weight;
  };
}
