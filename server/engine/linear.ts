/** One linear layer, dense or through a task's mask: the only place that chooses between matmul and matmul24. */
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import type { TaskWeights } from './types.js';
import type { DenseMatrix } from './weights.js';

/** y (T, rows) ← x (T, cols) · Wᵀ + bias, with W masked where `task` covers this matrix. */
export function linear(y: Handle, x: Handle, matrix: DenseMatrix, tokens: number, task: TaskWeights | null): void {
  const compacted = task?.matrices[matrix.name];
  const patch = task?.patches?.[matrix.name];
  if (compacted && patch) {
    const patches = new Float64Array(tokens).fill(patch);
    native.matmul24Patched(y, x, compacted.packed, patches, tokens, matrix.rows, matrix.cols);
  } else if (compacted) native.matmul24(y, x, compacted.packed, tokens, matrix.rows, matrix.cols);
  else native.matmul(y, x, task?.maskedDense?.[matrix.name] ?? matrix.weight, tokens, matrix.rows, matrix.cols);
  if (matrix.bias !== NO_BUFFER) native.addBias(y, matrix.bias, tokens, matrix.rows);
}
