/**
 * SparseGPT (arXiv 2301.00774, Algorithm 1) by plain loops, for what the kernel has not: other n:m than 2:4, and the weight update under a mask that is given. The same arithmetic as
 * the kernel's (kernels/cpu/sparsegpt24.cpp) but for the order of roundings.
 */
import { native } from '../../kernels/index.js';
import type { PatternTable } from '../../codec/pattern.js';
import type { DenseMatrix } from '../engine/weights.js';
import { bestPatterns } from './n-of-m.js';

export interface PrunedMatrix {
  /** (groups) */
  readonly symbols: Uint8Array;
  /** (rows, cols): kept weights as the update left them, 0 elsewhere. */
  readonly updated: Float32Array;
}

/** Of the inputs that some matrices share. */
export class InputHessian {
  /** (cols, cols), upper: H⁻¹ = uᵀu. */
  private readonly u: Float32Array;
  private readonly dead: readonly boolean[];

  /** H = 2·gram/tokens, columns without input at 1, plus `damp` × its mean diagonal. Throws one line when it is not positive definite. */
  constructor(
    gram: Float64Array,
    tokens: number,
    private readonly cols: number,
    damp: number,
  ) {
    const h = gram.map((sum) => (2 * sum) / tokens);
    const diagonal = Array.from({ length: cols }, (_, i) => h[i * cols + i] as number);
    this.dead = diagonal.map((value) => value === 0);
    const alive = diagonal.map((value) => (value === 0 ? 1 : value));
    const damping = (damp * alive.reduce((sum, value) => sum + value, 0)) / cols;
    alive.forEach((value, i) => (h[i * cols + i] = value + damping));
    this.u = Float32Array.from(inverseCholesky(h, cols));
  }

  /** Prunes column by column, from left to right; what a pruned weight leaves is made up for by those to its right. `given` (groups): the mask to keep; else it is chosen, group by group, by (w / u_ii)². */
  prune(
    { weight, rows }: Pick<DenseMatrix, 'weight' | 'rows'>,
    pattern: PatternTable,
    given?: Uint8Array,
  ): PrunedMatrix {
    const { cols, dead } = this;
    const symbols = given?.slice() ?? new Uint8Array((rows * cols) / pattern.m);
    const updated = new Float32Array(rows * cols);
    const words = new Uint32Array(updated.buffer);
    const bits = new Uint16Array(rows * cols);
    native.read(weight, 0, bits);
    for (let i = 0; i < bits.length; i++) words[i] = dead[i % cols] ? 0 : (bits[i] as number) << 16; // bf16 is the upper half of an f32
    for (let row = 0; row < rows; row++) {
      const first = (row * cols) / pattern.m;
      this.pruneRow(
        updated.subarray(row * cols, (row + 1) * cols),
        pattern,
        symbols.subarray(first),
        given !== undefined,
      );
    }
    return { symbols, updated };
  }

  /** `symbols`: from the row's first group on. */
  private pruneRow(w: Float32Array, pattern: PatternTable, symbols: Uint8Array, isGiven: boolean): void {
    const { cols, u } = this;
    const { m, masks } = pattern;
    const scores = new Float32Array(m);
    for (let first = 0; first < cols; first += m) {
      if (!isGiven) {
        for (let j = 0; j < m; j++) {
          scores[j] = ((w[first + j] as number) / (u[(first + j) * cols + first + j] as number)) ** 2;
        }
        bestPatterns(pattern, scores, symbols, first / m);
      }
      const mask = masks[symbols[first / m] as number] as number;
      for (let j = 0; j < m; j++) if (((mask >> j) & 1) === 0) this.spread(w, first + j);
    }
  }

  /** Prunes one weight. */
  private spread(w: Float32Array, i: number): void {
    const { cols, u } = this;
    const error = (w[i] as number) / (u[i * cols + i] as number);
    for (let j = i + 1; j < cols; j++) w[j] = (w[j] as number) - error * (u[i * cols + j] as number);
    w[i] = 0;
  }
}

/** Upper u with h⁻¹ = uᵀu: h = r·rᵀ with r upper, factored from the last column on, and u = r⁻¹. `h` (n, n) is overwritten. */
function inverseCholesky(h: Float64Array, n: number): Float64Array {
  for (let j = n - 1; j >= 0; j--) {
    const rowJ = h.subarray(j * n, (j + 1) * n);
    for (let i = j; i >= 0; i--) {
      const rowI = h.subarray(i * n, (i + 1) * n);
      let sum = rowI[j] as number;
      for (let k = j + 1; k < n; k++) sum -= (rowI[k] as number) * (rowJ[k] as number);
      if (i === j && !(sum > 0)) throw new Error(notDefinite(j, n));
      rowI[j] = i === j ? Math.sqrt(sum) : sum / (rowJ[j] as number);
    }
  }
  const u = new Float64Array(n * n);
  for (let i = n - 1; i >= 0; i--) {
    const [rowI, diagonal] = [u.subarray(i * n, (i + 1) * n), h[i * n + i] as number];
    for (let k = i + 1; k < n; k++) {
      const factor = -(h[i * n + k] as number) / diagonal;
      const rowK = u.subarray(k * n, (k + 1) * n);
      for (let j = k; j < n; j++) rowI[j] = (rowI[j] as number) + factor * (rowK[j] as number);
    }
    rowI[i] = 1 / diagonal;
  }
  return u;
}

function notDefinite(column: number, columns: number): string {
  return `expected a positive definite Hessian but column ${column} of ${columns} breaks it; calibrate on more text`;
}
