/**
 * Linear layers of one input, through the tasks' masks: the only place that chooses between the matrix products. What is resident decides:
 * a task's compacted copy (its own, or its parent's with a patch) runs through matmul24, one pass for every row that shares the copy;
 * rows of tasks that have only mask codes, and dense rows, share one pass over the dense weights. A row's result does not depend on the
 * rows beside it.
 */
import { native, NO_BUFFER, type FusedProducts, type Handle } from '../../kernels/index.js';
import { LONG_PROMPT, type PanelTokens } from './panel-tokens.js';
import type { TaskWeights } from './types.js';
import type { DenseMatrix } from './weights.js';

const F32 = 4;

/** One of the outputs of an input: y (T, rows) of `matrix`. */
export interface Output {
  readonly y: Handle;
  readonly matrix: DenseMatrix;
}

/** Rows [first, first + count) of an output that one product can compute: they share `packed`, or the dense matrix `dense`. */
interface Run extends Output {
  readonly first: number;
  count: number;
  readonly packed: Handle | undefined;
  readonly dense: Handle;
}

type TaskOf = (row: number) => TaskWeights | null;
type HandleOf = (task: TaskWeights, name: string) => Handle | undefined;

const NONE = new Float64Array(0);
const NO_RUN = { y: NO_BUFFER, packed: NO_BUFFER, dense: NO_BUFFER, matrix: { rows: 0 } };

const patchOf: HandleOf = (task, name) => task.patches?.[name];
const codesOf: HandleOf = (task, name) => task.codes?.[name];

/** Each y (T, rows) ← x (T, cols) · Wᵀ + bias, with W masked where `task` covers it: the rows of a prompt. */
export function linear(
  x: Handle,
  outputs: readonly Output[],
  tokens: number,
  task: TaskWeights | null,
  panelTokens: PanelTokens,
): void {
  const runs = outputs.map((output) => runOf(output, task, 0, tokens));
  product(x, runs, () => task, panelsFrom(runs, panelTokens));
  addBiases(outputs, tokens);
}

/** From how many tokens on these are multiplied by panels. Decoding does without: who is beside a row must not show in its bits. */
function panelsFrom(runs: readonly Run[], panelTokens: PanelTokens): number {
  if (runs.some(({ packed }) => packed === undefined)) return LONG_PROMPT;
  const rows = runs.reduce((sum, { matrix }) => sum + matrix.rows, 0);
  return panelTokens(rows, (runs[0] as Run).matrix.cols);
}

/** The same where row t is of the task tasks[t]. Neighbours that share a compacted copy are multiplied together. */
export function linearRows(x: Handle, outputs: readonly Output[], tasks: readonly (TaskWeights | null)[]): void {
  const taskOf: TaskOf = (row) => tasks[row] as TaskWeights | null;
  for (const runs of togetherOf(outputs.map((output) => runsOf(output, tasks)))) {
    if (runs[0]?.count === tasks.length) product(x, runs, taskOf);
    else productOfPart(x, runs, taskOf);
  }
  addBiases(outputs, tasks.length);
}

function runsOf(output: Output, tasks: readonly (TaskWeights | null)[]): Run[] {
  const runs: Run[] = [];
  tasks.forEach((task, row) => {
    const run = runOf(output, task, row, 1);
    const last = runs.at(-1);
    if (last?.packed === run.packed && last?.dense === run.dense) last.count++;
    else runs.push(run);
  });
  return runs;
}

function runOf({ y, matrix }: Output, task: TaskWeights | null, first: number, count: number): Run {
  const packed = task?.matrices[matrix.name]?.packed;
  return { y, matrix, first, count, packed, dense: task?.maskedDense?.[matrix.name] ?? matrix.weight };
}

/** Runs of all outputs, of the same rows; each by itself where a task's mask covers some of the matrices only. */
function togetherOf(each: readonly Run[][]): Run[][] {
  const [first = [], ...others] = each;
  const alike = others.every(
    (runs) => runs.length === first.length && runs.every((run, i) => run.first === first[i]?.first),
  );
  return alike
    ? first.map((run, i) => [run, ...others.map((runs) => runs[i] as Run)])
    : each.flat().map((run) => [run]);
}

function productOfPart(x: Handle, runs: readonly Run[], taskOf: TaskOf): void {
  const views: Handle[] = [];
  const rowsOf = (of: Handle, columns: number, { first, count }: Run): Handle => {
    const view = native.view(of, first * columns * F32, count * columns * F32);
    views.push(view);
    return view;
  };
  const [run] = runs as [Run];
  try {
    const from = rowsOf(x, run.matrix.cols, run);
    product(
      from,
      runs.map((part) => ({ ...part, y: rowsOf(part.y, part.matrix.rows, part) })),
      taskOf,
    );
  } finally {
    for (const view of views) native.free(view);
  }
}

/** x and each y begin at the runs' first row. */
function product(x: Handle, runs: readonly Run[], taskOf: TaskOf, panelsFrom = LONG_PROMPT): void {
  if (runs.length > 1 || panelsFrom < LONG_PROMPT) return productsOfOneInput(x, runs, taskOf, panelsFrom);
  const [{ y, matrix, count, packed, dense }] = runs as [Run];
  const { rows, cols } = matrix;
  if (packed !== undefined) {
    const patches = handlesOf(runs, taskOf, patchOf);
    if (patches.length > 0) native.matmul24Patched(y, x, packed, patches, count, rows, cols);
    else native.matmul24(y, x, packed, count, rows, cols);
  } else {
    const codes = handlesOf(runs, taskOf, codesOf);
    if (codes.length > 0) native.matmulMasked(y, x, dense, codes, count, rows, cols);
    else native.matmul(y, x, dense, count, rows, cols);
  }
}

/** One, two or three products in one call, unless their weights are of several kinds or some are masked by codes. */
function productsOfOneInput(x: Handle, runs: readonly Run[], taskOf: TaskOf, panelsFrom: number): void {
  const [a, b = NO_RUN, c = NO_RUN] = runs as readonly [Run, Run?, Run?];
  const compacted = runs.filter(({ packed }) => packed !== undefined).length;
  const alike = compacted === runs.length || (compacted === 0 && handlesOf(runs, taskOf, codesOf).length === 0);
  if (!alike) {
    for (const run of runs) product(x, [run], taskOf);
    return;
  }
  const products: FusedProducts = [x, a.count, a.matrix.cols, ...factor(a), ...factor(b), ...factor(c)];
  if (compacted > 0) native.matmul24Fused(...products, handlesOf(runs, taskOf, patchOf), panelsFrom);
  else native.matmulFused(...products);
}

function factor({ y, packed, dense, matrix }: typeof NO_RUN | Run): [y: Handle, w: Handle, n: number] {
  return [y, packed ?? dense, matrix.rows];
}

/** What `of` gives for each row of each run; empty where it gives nothing. */
function handlesOf(runs: readonly Run[], taskOf: TaskOf, of: HandleOf): Float64Array {
  const { length } = runs;
  const count = (runs[0] as Run).count;
  let all = NONE;
  for (let i = 0; i < length; i++) {
    const { matrix, first } = runs[i] as Run;
    for (let row = 0; row < count; row++) {
      const task = taskOf(first + row);
      const handle = task === null ? undefined : of(task, matrix.name);
      if (handle === undefined) continue;
      if (all === NONE) all = new Float64Array(length * count).fill(NO_BUFFER);
      all[i * count + row] = handle;
    }
  }
  return all;
}

function addBiases(outputs: readonly Output[], tokens: number): void {
  for (const { y, matrix } of outputs) {
    if (matrix.bias !== NO_BUFFER) native.addBias(y, matrix.bias, tokens, matrix.rows);
  }
}
