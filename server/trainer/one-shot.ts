/**
 * One-shot 2:4 masks of a frozen model: magnitude, Wanda (arXiv 2306.11695: |W|·‖x‖) and SparseGPT (arXiv 2301.00774; its updated
 * weights are handed out or thrown away).
 */
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import type { Mask, MaskSet } from '../../codec/mask-set.js';
import { nibblesToSymbols } from '../../codec/pattern.js';
import type { Model } from '../engine/model.js';
import { matricesOf, type DenseMatrix } from '../engine/weights.js';
import { calibrate, inputGroupsOf, statisticBytes, type Calibration, type Statistic } from './calibrate.js';

export type OneShotMethod = 'magnitude' | 'wanda' | 'sparsegpt';

export const ONE_SHOT_METHODS: readonly OneShotMethod[] = ['magnitude', 'wanda', 'sparsegpt'];

export interface OneShotOptions {
  readonly method: OneShotMethod;
  /** Calibration windows; not needed for magnitude. */
  readonly windows: readonly Int32Array[];
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
  const masks = new Map<string, Mask>();
  const keep = (matrix: DenseMatrix, mask: Mask): void => void masks.set(matrix.name, mask);
  if (options.method === 'magnitude') {
    for (const matrix of matricesOf(model.weights))
      keep(
        matrix,
        maskOf(matrix, (meta) => score(meta, matrix, NO_BUFFER)),
      );
  } else {
    pruneCalibrated(model, options, keep);
  }
  return {
    n: 2,
    m: 4,
    base: model.info.base,
    masks: matricesOf(model.weights).map((matrix) => masks.get(matrix.name) as Mask),
  };
}

function pruneCalibrated(model: Model, options: OneShotOptions, keep: (matrix: DenseMatrix, mask: Mask) => void): void {
  const statistic: Statistic = options.method === 'wanda' ? 'sumSquares' : 'gram';
  const batches = batchesWithin(model, statistic, options.memoryBytes);
  const steps = batches.length * options.windows.length;
  let done = 0;
  for (const groups of batches) {
    const use = (calibration: Calibration): void => {
      for (const matrix of groups.flat()) keep(matrix, calibratedMask(matrix, calibration, options));
    };
    calibrate(model, groups, options.windows, statistic, use, () => options.onProgress?.(++done, steps));
  }
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

function calibratedMask(matrix: DenseMatrix, calibration: Calibration, options: OneShotOptions): Mask {
  const { rows, cols, weight } = matrix;
  const statistic = calibration.of(matrix);
  if (options.method === 'sparsegpt') {
    const updated = options.updated?.(matrix) ?? NO_BUFFER;
    return maskOf(matrix, (meta) =>
      native.sparsegpt24(meta, updated, weight, statistic, calibration.tokens, rows, cols, options.damp),
    );
  }
  const scale = inputNorms(statistic, calibration.tokens, cols);
  try {
    return maskOf(matrix, (meta) => score(meta, matrix, scale));
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

function score(meta: Handle, { weight, rows, cols }: DenseMatrix, scale: Handle): void {
  native.scoreMask24(meta, weight, scale, rows, cols);
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
