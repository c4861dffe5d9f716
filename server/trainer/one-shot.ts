/**
 * One-shot masks of a frozen model: magnitude, Wanda (arXiv 2306.11695: |W|·‖x‖) and SparseGPT (arXiv 2301.00774; its updated
 * weights are handed out or thrown away).
 */
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import type { Mask, MaskSet } from '../../codec/mask-set.js';
import { nibblesToSymbols, type PatternTable } from '../../codec/pattern.js';
import { onTheHost } from '../engine/backend.js';
import type { Model } from '../engine/model.js';
import { matricesOf, type DenseMatrix } from '../engine/weights.js';
import { Buffers } from './activations.js';
import { calibrate, inputGroupsOf, statisticBytes, type Calibration, type Statistic } from './calibrate.js';
import { bestPatterns, isTwoOfFour, TWO_OF_FOUR } from './n-of-m.js';
import { InputHessian } from './sparsegpt.js';

export type OneShotMethod = 'magnitude' | 'wanda' | 'sparsegpt';

export const ONE_SHOT_METHODS: readonly OneShotMethod[] = ['magnitude', 'wanda', 'sparsegpt'];

export interface OneShotOptions {
  readonly method: OneShotMethod;
  /** Calibration windows; not needed for magnitude. */
  readonly windows: readonly Int32Array[];
  /** Undefined: 2:4, which kernels choose; others are chosen by plain loops. */
  readonly pattern?: PatternTable;
  /** SparseGPT's dampening, a share of the Hessian's mean diagonal (paper: 0.01). */
  readonly damp: number;
  /** Statistics held at once, bytes: layers are calibrated in as many passes over the text as it takes. */
  readonly memoryBytes?: number;
  /** SparseGPT: a buffer (rows, cols) bf16 that receives the matrix's updated weights. */
  readonly updated?: (matrix: DenseMatrix) => Handle;
  readonly onProgress?: (done: number, of: number) => void;
}

const DEFAULT_MEMORY_BYTES = 2 ** 31;

/** Masks every linear layer of the model. */
export function oneShotMask(model: Model, options: OneShotOptions): MaskSet {
  const { method, pattern = TWO_OF_FOUR } = options;
  const masks = new Map<string, Mask>();
  const keep = (matrix: DenseMatrix, mask: Mask): void => void masks.set(matrix.name, mask);
  if (method === 'magnitude') {
    for (const matrix of matricesOf(model.weights)) keep(matrix, scoredMask(matrix, NO_BUFFER, pattern));
  } else {
    pruneCalibrated(model, options, keep);
  }
  return {
    n: pattern.n,
    m: pattern.m,
    base: model.info.base,
    masks: matricesOf(model.weights).map((matrix) => masks.get(matrix.name) as Mask),
  };
}

function pruneCalibrated(model: Model, options: OneShotOptions, keep: (matrix: DenseMatrix, mask: Mask) => void): void {
  const statistic = statisticOf(options.method);
  const batches = batchesWithin(model, statistic, options.memoryBytes);
  const steps = batches.length * options.windows.length;
  let done = 0;
  for (const groups of batches) {
    const use = (calibration: Calibration): void => {
      for (const group of groups) {
        const maskOf = prunerOf(group as [DenseMatrix, ...DenseMatrix[]], calibration, options);
        for (const matrix of group) keep(matrix, maskOf(matrix));
      }
    };
    calibrate(model, groups, options.windows, statistic, use, () => options.onProgress?.(++done, steps));
  }
}

function statisticOf(method: OneShotMethod): Statistic {
  return method === 'wanda' ? 'sumSquares' : 'gram';
}

/** Bytes of the statistics that `oneShotMask` holds at once. */
export function calibrationBytes(model: Model, method: OneShotMethod): number {
  if (method === 'magnitude') return 0;
  const statistic = statisticOf(method);
  const bytesOf = (groups: DenseMatrix[][]): number =>
    groups.reduce((sum, group) => sum + statisticBytes(statistic, (group[0] as DenseMatrix).cols), 0);
  return Math.max(...batchesWithin(model, statistic).map(bytesOf));
}

/** Input groups of all that may be masked, cut where their statistics exceed the budget. */
export function batchesWithin(model: Model, statistic: Statistic, budget = DEFAULT_MEMORY_BYTES): DenseMatrix[][][] {
  const batches: DenseMatrix[][][] = [];
  let bytes = Infinity;
  for (const group of inputGroupsOf(model.weights)) {
    const cost = statisticBytes(statistic, (group[0] as DenseMatrix).cols);
    if (bytes + cost > budget) {
      batches.push([]);
      bytes = 0;
    }
    bytes += cost;
    (batches.at(-1) as DenseMatrix[][]).push(group);
  }
  return batches;
}

/** What masks the matrices of one input. */
function prunerOf(
  [first]: readonly [DenseMatrix, ...DenseMatrix[]],
  calibration: Calibration,
  { method, damp, updated, pattern = TWO_OF_FOUR }: OneShotOptions,
): (matrix: DenseMatrix) => Mask {
  const statistic = calibration.of(first);
  const { tokens } = calibration;
  if (method === 'wanda') return (matrix) => wandaMask(matrix, statistic, tokens, pattern);
  const into = (matrix: DenseMatrix): Handle => updated?.(matrix) ?? NO_BUFFER;
  if (isTwoOfFour(pattern)) {
    return (matrix) => sparseGptMask(matrix, { gram: statistic, tokens, damp }, into(matrix));
  }
  const gram = new Float64Array(first.cols * first.cols);
  native.read(statistic, 0, gram);
  const hessian = new InputHessian(gram, tokens, first.cols, damp);
  return (matrix) => {
    const pruned = hessian.prune(matrix, pattern);
    const buffer = into(matrix);
    if (buffer !== NO_BUFFER) writeBf16(buffer, pruned.updated);
    return { name: matrix.name, rows: matrix.rows, cols: matrix.cols, symbols: pruned.symbols };
  };
}

/** SparseGPT runs on the host: a GPU's operands are copied there, and what it updated comes back. */
function sparseGptMask(
  matrix: DenseMatrix,
  { gram, tokens, damp }: { readonly gram: Handle; readonly tokens: number; readonly damp: number },
  updated: Handle,
): Mask {
  const { rows, cols, weight } = matrix;
  const prune = (w: Handle, xx: Handle, out: Handle): Mask =>
    maskOf(matrix, (meta) => native.sparsegpt24(meta, out, w, xx, tokens, rows, cols, damp));
  if (native.info().device === null) return prune(weight, gram, updated);
  return onTheHost(() => {
    const buffers = new Buffers();
    const copyOf = (buffer: Handle): Handle => {
      const bytes = native.byteLength(buffer);
      const copy = buffers.alloc(bytes);
      native.copy(copy, 0, buffer, 0, bytes);
      return copy;
    };
    try {
      const out = updated === NO_BUFFER ? NO_BUFFER : copyOf(updated);
      const mask = prune(copyOf(weight), copyOf(gram), out);
      if (out !== NO_BUFFER) native.copy(updated, 0, out, 0, native.byteLength(out));
      return mask;
    } finally {
      buffers.dispose();
    }
  });
}

function wandaMask(matrix: DenseMatrix, sums: Handle, tokens: number, pattern: PatternTable): Mask {
  const scale = inputNorms(sums, tokens, matrix.cols);
  try {
    return scoredMask(matrix, scale, pattern);
  } finally {
    native.free(scale);
  }
}

/** (cols) f32: root mean square of each input column. */
function inputNorms(sums: Handle, tokens: number, cols: number): Handle {
  const squares = new Float64Array(cols);
  native.read(sums, 0, squares);
  const norms = native.alloc(cols * 4);
  native.write(
    norms,
    0,
    Float32Array.from(squares, (sum) => Math.sqrt(sum / tokens)),
  );
  return norms;
}

/** The n largest |w|·scale of each m; `scale` (cols) f32, or none. */
function scoredMask(matrix: DenseMatrix, scale: Handle, pattern: PatternTable): Mask {
  const { name, weight, rows, cols } = matrix;
  if (isTwoOfFour(pattern)) return maskOf(matrix, (meta) => native.scoreMask24(meta, weight, scale, rows, cols));
  const factors = new Float32Array(cols).fill(1);
  if (scale !== NO_BUFFER) native.read(scale, 0, factors);
  const bits = new Uint16Array(rows * cols);
  native.read(weight, 0, bits);
  const scores = new Float32Array(rows * cols);
  const words = new Uint32Array(scores.buffer);
  bits.forEach((word, i) => {
    words[i] = (word & 0x7fff) << 16; // bf16 is the upper half of an f32; without its sign
    scores[i] = (scores[i] as number) * (factors[i % cols] as number);
  });
  const symbols = new Uint8Array((rows * cols) / pattern.m);
  bestPatterns(pattern, scores, symbols);
  return { name, rows, cols, symbols };
}

function maskOf({ name, rows, cols }: DenseMatrix, fill: (meta: Handle) => void): Mask {
  const nibbles = new Uint8Array((rows * cols) / 8);
  const meta = native.alloc(nibbles.length);
  try {
    fill(meta);
    native.read(meta, 0, nibbles);
  } finally {
    native.free(meta);
  }
  return { name, rows, cols, symbols: nibblesToSymbols(nibbles) };
}

function writeBf16(out: Handle, values: Float32Array): void {
  const wide = native.alloc(values.length * 4);
  try {
    native.write(wide, 0, values);
    native.toBf16(out, wide, 'f32', values.length);
  } finally {
    native.free(wide);
  }
}
