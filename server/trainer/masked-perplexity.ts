/** Perplexity of a mask that is still being learned, on windows of token ids: through the same compacted kernels that will serve it where it is 2:4, else masked dense. */
import { native, type Handle } from '../../kernels/index.js';
import { windowNll } from '../engine/evaluate.js';
import { KvCache } from '../engine/kv-cache.js';
import type { Model } from '../engine/model.js';
import type { CompactedMatrix, TaskWeights } from '../engine/types.js';
import { matricesOf, type DenseMatrix } from '../engine/weights.js';
import { isTwoOfFour, maskDense, patternOf, symbolsOf, type MaskedModel } from './n-of-m.js';

/** Masks the model's weights by canonical codes; `weightOf` may supply other dense weights than the model's. Free with `freeTask`. */
export function maskedTask(
  model: MaskedModel,
  codesOf: (matrix: DenseMatrix) => Uint8Array,
  weightOf: (matrix: DenseMatrix) => Handle = (matrix) => matrix.weight,
): TaskWeights {
  return isTwoOfFour(patternOf(model)) ? compactTask(model, codesOf, weightOf) : denseTask(model, codesOf, weightOf);
}

function denseTask(
  model: MaskedModel,
  codesOf: (matrix: DenseMatrix) => Uint8Array,
  weightOf: (matrix: DenseMatrix) => Handle,
): TaskWeights {
  const pattern = patternOf(model);
  const maskedDense: Record<string, Handle> = {};
  let bytes = 0;
  for (const matrix of matricesOf(model.weights)) {
    const weight = native.alloc(matrix.rows * matrix.cols * 2);
    maskDense(pattern, weight, matrix, symbolsOf(pattern, codesOf(matrix)), weightOf(matrix));
    maskedDense[matrix.name] = weight;
    bytes += matrix.rows * matrix.cols * 2;
  }
  return { digest: '', matrices: {}, maskedDense, bytes };
}

function compactTask(
  model: Model,
  nibblesOf: (matrix: DenseMatrix) => Uint8Array,
  weightOf: (matrix: DenseMatrix) => Handle,
): TaskWeights {
  const matrices: Record<string, CompactedMatrix> = {};
  let bytes = 0;
  for (const matrix of matricesOf(model.weights)) {
    const nibbles = nibblesOf(matrix);
    const packedBytes = native.packedBytes(matrix.rows, matrix.cols);
    const [meta, packed] = [native.alloc(nibbles.length), native.alloc(packedBytes)];
    native.write(meta, 0, nibbles);
    native.compress24(packed, weightOf(matrix), meta, matrix.rows, matrix.cols);
    native.free(meta);
    matrices[matrix.name] = { packed };
    bytes += packedBytes;
  }
  return { digest: '', matrices, bytes };
}

export function freeTask(task: TaskWeights): void {
  for (const { packed } of Object.values(task.matrices)) native.free(packed);
  for (const weight of Object.values(task.maskedDense ?? {})) native.free(weight);
}

/** exp(mean NLL) over the first `windows` non-overlapping windows of `length` tokens of a stream. */
export function streamPerplexity(
  model: Model,
  stream: Int32Array,
  length: number,
  windows: number,
  task: TaskWeights | null,
): number {
  const count = Math.min(windows, Math.floor((stream.length - 1) / length));
  if (count < 1) throw new Error(`expected more than ${length} held-out tokens but received ${stream.length}`);
  const cache = new KvCache(model.config, length);
  try {
    let nll = 0;
    for (let window = 0; window < count; window++) {
      nll += windowNll(model, stream.subarray(window * length, (window + 1) * length + 1), cache, task);
    }
    return Math.exp(nll / (count * length));
  } finally {
    cache.dispose();
  }
}
