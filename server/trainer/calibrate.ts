/**
 * What one-shot pruning needs to know of a layer's inputs: per column the sum of squares (Wanda's ‖x‖²) or the Gram matrix xᵀx (SparseGPT's
 * Hessian), over windows of text run through the dense model.
 */
import { native, type Handle } from '../../kernels/index.js';
import { KvCache } from '../engine/kv-cache.js';
import { byInput } from '../engine/linear-shapes.js';
import { CHUNK_TOKENS } from '../engine/llama.js';
import type { Model } from '../engine/model.js';
import { Random } from '../engine/random.js';
import { matricesOf, type DenseMatrix, type ModelWeights } from '../engine/weights.js';

/** Which statistic of the inputs is gathered. */
export type Statistic = 'sumSquares' | 'gram';

export interface Calibration {
  /** Tokens seen. */
  readonly tokens: number;
  /** sumSquares: (cols) f64; gram: (cols, cols) f64. Matrices with the same input share a buffer. */
  readonly of: (matrix: DenseMatrix) => Handle;
}

/** The matrices that may be masked, those that read the same input together. */
export function inputGroupsOf(weights: ModelWeights): DenseMatrix[][] {
  const names = new Set(matricesOf(weights).map(({ name }) => name));
  return weights.layers
    .flatMap((layer) => byInput(layer))
    .map((group) => group.filter(({ name }) => names.has(name)))
    .filter((group) => group.length > 0);
}

export function statisticBytes(statistic: Statistic, cols: number): number {
  return statistic === 'gram' ? cols * cols * 8 : cols * 8;
}

/**
 * Runs `windows` (each of at most CHUNK_TOKENS ids) and calls `use` with the statistic of these groups' inputs; frees it
 * afterwards.
 */
export function calibrate(
  model: Model,
  groups: readonly (readonly DenseMatrix[])[],
  windows: readonly Int32Array[],
  statistic: Statistic,
  use: (calibration: Calibration) => void,
  onWindow?: () => void,
): void {
  const sums = new Map<string, { handle: Handle; first: string }>();
  try {
    for (const group of groups) {
      const first = group[0] as DenseMatrix;
      const handle = native.alloc(statisticBytes(statistic, first.cols));
      for (const matrix of group) sums.set(matrix.name, { handle, first: first.name });
    }
    const tokens = observe(model, windows, statistic, sums, onWindow);
    use({ tokens, of: (matrix) => (sums.get(matrix.name) as { handle: Handle }).handle });
  } finally {
    for (const handle of new Set([...sums.values()].map((sum) => sum.handle))) native.free(handle);
  }
}

function observe(
  model: Model,
  windows: readonly Int32Array[],
  statistic: Statistic,
  sums: ReadonlyMap<string, { handle: Handle; first: string }>,
  onWindow: (() => void) | undefined,
): number {
  const cache = new KvCache(model.config, CHUNK_TOKENS);
  let tokens = 0;
  model.forward.observe((matrix, x, rows) => {
    const sum = sums.get(matrix.name);
    if (sum?.first === matrix.name) native[statistic](sum.handle, x, rows, matrix.cols);
  });
  try {
    for (const window of windows) {
      cache.length = 0;
      model.forward.run(window, cache, null);
      tokens += window.length;
      onWindow?.();
    }
    return tokens;
  } finally {
    model.forward.observe(undefined);
    cache.dispose();
  }
}

/**
 * `count` windows of `length` tokens: for each a source is drawn (each alike), then a place in its stream, as the yardstick's `batch`
 * does. Seeded.
 */
export function sampleWindows(
  streams: readonly Int32Array[],
  count: number,
  length: number,
  seed: number,
): Int32Array[] {
  const random = new Random(seed);
  const short = streams.find((stream) => stream.length <= length);
  if (short) throw new Error(`expected more than ${length} tokens of text in each --data, but one has ${short.length}`);
  return Array.from({ length: count }, () => {
    const stream = streams[Math.floor(random.uniform() * streams.length)] as Int32Array;
    const start = Math.floor(random.uniform() * (stream.length - length));
    return stream.slice(start, start + length);
  });
}
