/**
 * Swap refinement of a one-shot mask on SparseGPT's Hessian (after SparseSwaps): in each group the exchange of one kept for one pruned weight that lowers the layer's output error eᵀHe most, e being
 * the pruned weights of a row; round after round until nothing is gained. Weights are not updated.
 */
import { native } from '../../kernels/index.js';
import type { Model } from '../engine/model.js';
import type { DenseMatrix } from '../engine/weights.js';
import { calibrate } from './calibrate.js';
import { CALIBRATION_DAMP } from './defaults.js';
import type { NibblesByName } from './nibbles.js';
import { batchesWithin } from './one-shot.js';

export interface Refined {
  readonly nibbles: NibblesByName;
  readonly swaps: number;
  /** Σ over rows and matrices of eᵀHe, before and after. */
  readonly errorBefore: number;
  readonly errorAfter: number;
}

export interface RefinedMatrix {
  /** (rows · cols / 8) */
  readonly nibbles: Uint8Array;
  readonly swaps: number;
  readonly errorBefore: number;
  readonly errorAfter: number;
}

/** A gain below this share of the row's error is rounding, not gain. */
const LEAST_GAIN = 1e-9;

/** Refines the masks of the masked layers by their inputs on `windows`, at most `rounds` times over each row. */
export function refineMasks(
  model: Model,
  masked: Model,
  start: NibblesByName,
  windows: readonly Int32Array[],
  rounds: number,
  onProgress?: (done: number, of: number) => void,
): Refined {
  const nibbles = new Map(start);
  let [swaps, errorBefore, errorAfter, done] = [0, 0, 0, 0];
  const batches = batchesWithin(masked, 'gram');
  for (const groups of batches) {
    calibrate(
      model,
      groups,
      windows,
      'gram',
      ({ of }) => {
        for (const group of groups) {
          const [first] = group as [DenseMatrix, ...DenseMatrix[]];
          const hessian = new Float64Array(first.cols * first.cols);
          native.read(of(first), 0, hessian);
          dampen(hessian, first.cols);
          for (const matrix of group) {
            const refined = refineMatrix(matrix, nibbles.get(matrix.name) as Uint8Array, hessian, rounds);
            nibbles.set(matrix.name, refined.nibbles);
            swaps += refined.swaps;
            errorBefore += refined.errorBefore;
            errorAfter += refined.errorAfter;
          }
        }
      },
      () => onProgress?.(++done, batches.length * windows.length),
    );
  }
  return { nibbles, swaps, errorBefore, errorAfter };
}

/** `hessian`: (cols, cols), symmetric, of any scale. */
export function refineMatrix(
  { weight, rows, cols }: Pick<DenseMatrix, 'weight' | 'rows' | 'cols'>,
  start: Uint8Array,
  hessian: Float64Array,
  rounds: number,
): RefinedMatrix {
  const nibbles = start.slice();
  const bits = new Uint16Array(cols);
  const row = new Row(cols, hessian);
  let [swaps, errorBefore, errorAfter] = [0, 0, 0];
  for (let r = 0; r < rows; r++) {
    native.read(weight, r * cols * 2, bits);
    const mask = nibbles.subarray((r * cols) / 8, ((r + 1) * cols) / 8);
    errorBefore += row.load(bits, mask);
    for (let round = 0; round < rounds; round++) {
      const swapped = row.sweep();
      swaps += swapped;
      if (swapped === 0) break;
    }
    errorAfter += row.error();
    row.store(mask);
  }
  return { nibbles, swaps, errorBefore, errorAfter };
}

/** SparseGPT's dampening: a share of the mean diagonal on the diagonal. */
function dampen(hessian: Float64Array, cols: number): void {
  let trace = 0;
  for (let i = 0; i < cols; i++) trace += hessian[i * cols + i] as number;
  const damp = (CALIBRATION_DAMP * trace) / cols;
  for (let i = 0; i < cols; i++) hessian[i * cols + i] = (hessian[i * cols + i] as number) + damp;
}

/** One row of a matrix: its weights, which are kept, and He. */
class Row {
  private readonly w: Float64Array;
  private readonly kept: Uint8Array;
  /** He */
  private readonly pull: Float64Array;
  private readonly words = new Uint32Array(1);
  private readonly float = new Float32Array(this.words.buffer);
  private least = 0;

  constructor(
    private readonly cols: number,
    private readonly hessian: Float64Array,
  ) {
    this.w = new Float64Array(cols);
    this.kept = new Uint8Array(cols);
    this.pull = new Float64Array(cols);
  }

  /** Takes a row of bf16 weights and its nibbles; returns eᵀHe. */
  load(bits: Uint16Array, mask: Uint8Array): number {
    const { cols, w, kept, pull } = this;
    kept.fill(0);
    for (let group = 0; group < cols / 4; group++) {
      const nibble = ((mask[group >> 1] as number) >> ((group & 1) * 4)) & 15;
      kept[group * 4 + (nibble & 3)] = 1;
      kept[group * 4 + (nibble >> 2)] = 1;
    }
    pull.fill(0);
    for (let i = 0; i < cols; i++) {
      this.words[0] = (bits[i] as number) << 16; // bf16 is the upper half of an f32
      w[i] = this.float[0] as number;
      if (kept[i] === 0) this.addColumn(i, w[i] as number);
    }
    const error = this.error();
    this.least = LEAST_GAIN * error;
    return error;
  }

  error(): number {
    let sum = 0;
    for (let i = 0; i < this.cols; i++) {
      if (this.kept[i] === 0) sum += (this.w[i] as number) * (this.pull[i] as number);
    }
    return sum;
  }

  /** Makes the best exchange of every group in turn, where it gains. Returns how many. */
  sweep(): number {
    let swaps = 0;
    for (let first = 0; first < this.cols; first += 4) if (this.exchange(first)) swaps++;
    return swaps;
  }

  store(mask: Uint8Array): void {
    mask.fill(0);
    for (let group = 0; group < this.cols / 4; group++) {
      const positions = [0, 1, 2, 3].filter((position) => this.kept[group * 4 + position] === 1);
      const nibble = (positions[0] as number) | ((positions[1] as number) << 2);
      mask[group >> 1] = (mask[group >> 1] as number) | (nibble << ((group & 1) * 4));
    }
  }

  private exchange(first: number): boolean {
    let [best, drop, add] = [-this.least, -1, -1];
    for (let k = first; k < first + 4; k++) {
      if (this.kept[k] === 0) continue;
      for (let p = first; p < first + 4; p++) {
        if (this.kept[p] === 1) continue;
        const change = this.change(k, p);
        if (change < best) [best, drop, add] = [change, k, p];
      }
    }
    if (drop < 0) return false;
    this.kept[drop] = 0;
    this.kept[add] = 1;
    this.addColumn(drop, this.w[drop] as number);
    this.addColumn(add, -(this.w[add] as number));
    return true;
  }

  /** Change of eᵀHe when k, kept, and p, pruned, exchange their places. */
  private change(k: number, p: number): number {
    const { w, pull, hessian, cols } = this;
    const [wk, wp] = [w[k] as number, w[p] as number];
    const squares = wk * wk * (hessian[k * cols + k] as number) + wp * wp * (hessian[p * cols + p] as number);
    const cross = wk * wp * (hessian[k * cols + p] as number);
    return 2 * (wk * (pull[k] as number) - wp * (pull[p] as number)) + squares - 2 * cross;
  }

  private addColumn(column: number, by: number): void {
    const { pull, hessian, cols } = this;
    const from = column * cols; // symmetric: the row is the column
    for (let i = 0; i < cols; i++) pull[i] = (pull[i] as number) + by * (hessian[from + i] as number);
  }
}
