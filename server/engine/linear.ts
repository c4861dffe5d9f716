/**
 * One linear layer, through the tasks' masks: the only place that chooses between the matrix products. What is resident decides:
 * a task's compacted copy (its own, or its parent's with a patch) runs through matmul24, one pass for every row that shares the copy;
 * rows of tasks that have only mask codes, and dense rows, share one pass over the dense weights. A row's result does not depend on the
 * rows beside it.
 */
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import type { TaskWeights } from './types.js';
import type { DenseMatrix } from './weights.js';

const F32 = 4;

/** Rows [first, first + count) that one product can compute: they share `packed`, or the dense matrix `dense`. */
interface Run {
  readonly first: number;
  count: number;
  readonly packed: Handle | undefined;
  readonly dense: Handle;
}

/** y (T, rows) ← x (T, cols) · Wᵀ + bias, with W masked where `task` covers this matrix. */
export function linear(y: Handle, x: Handle, matrix: DenseMatrix, tokens: number, task: TaskWeights | null): void {
  product(y, x, matrix, runOf(matrix, task, 0, tokens), () => task);
  addBias(y, matrix, tokens);
}

/** The same where row t is of the task tasks[t]. Neighbours that share a compacted copy are multiplied together. */
export function linearRows(y: Handle, x: Handle, matrix: DenseMatrix, tasks: readonly (TaskWeights | null)[]): void {
  const runs = runsOf(matrix, tasks);
  const taskOf = (row: number): TaskWeights | null => tasks[row] as TaskWeights | null;
  for (const run of runs) {
    if (runs.length === 1) product(y, x, matrix, run, taskOf);
    else productOfPart(y, x, matrix, run, taskOf);
  }
  addBias(y, matrix, tasks.length);
}

function runsOf(matrix: DenseMatrix, tasks: readonly (TaskWeights | null)[]): Run[] {
  const runs: Run[] = [];
  tasks.forEach((task, row) => {
    const run = runOf(matrix, task, row, 1);
    const last = runs.at(-1);
    if (last?.packed === run.packed && last?.dense === run.dense) last.count++;
    else runs.push(run);
  });
  return runs;
}

function runOf(matrix: DenseMatrix, task: TaskWeights | null, first: number, count: number): Run {
  const compacted = task?.matrices[matrix.name];
  return { first, count, packed: compacted?.packed, dense: task?.maskedDense?.[matrix.name] ?? matrix.weight };
}

function productOfPart(
  y: Handle,
  x: Handle,
  matrix: DenseMatrix,
  run: Run,
  taskOf: (row: number) => TaskWeights | null,
): void {
  const rowsOf = (of: Handle, columns: number): Handle =>
    native.view(of, run.first * columns * F32, run.count * columns * F32);
  const [to, from] = [rowsOf(y, matrix.rows), rowsOf(x, matrix.cols)];
  try {
    product(to, from, matrix, run, taskOf);
  } finally {
    native.free(to);
    native.free(from);
  }
}

/** y and x begin at the run's first row. */
function product(
  y: Handle,
  x: Handle,
  matrix: DenseMatrix,
  run: Run,
  taskOf: (row: number) => TaskWeights | null,
): void {
  const { name, rows, cols } = matrix;
  const perRow = (of: (task: TaskWeights) => Handle | undefined): Float64Array | undefined => {
    const handles = new Float64Array(run.count);
    for (let i = 0; i < run.count; i++) {
      const task = taskOf(run.first + i);
      handles[i] = (task && of(task)) ?? NO_BUFFER;
    }
    return handles.some((handle) => handle !== NO_BUFFER) ? handles : undefined;
  };
  if (run.packed !== undefined) {
    const patches = perRow((task) => task.patches?.[name]);
    if (patches) native.matmul24Patched(y, x, run.packed, patches, run.count, rows, cols);
    else native.matmul24(y, x, run.packed, run.count, rows, cols);
  } else {
    const codes = perRow((task) => task.codes?.[name]);
    if (codes) native.matmulMasked(y, x, run.dense, codes, run.count, rows, cols);
    else native.matmul(y, x, run.dense, run.count, rows, cols);
  }
}

function addBias(y: Handle, matrix: DenseMatrix, tokens: number): void {
  if (matrix.bias !== NO_BUFFER) native.addBias(y, matrix.bias, tokens, matrix.rows);
}
