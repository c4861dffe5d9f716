/** The ops by their definitions, in fp64 and plain loops: what the kernels are compared with. */
import { fromBf16 } from './numbers.js';

/** y (T, N) = x (T, K) wᵀ, w (N, K) bf16. */
export function matmul(x: ArrayLike<number>, w: Uint16Array, tokens: number, n: number, k: number): Float64Array {
  const dense = Float64Array.from(w, fromBf16);
  const y = new Float64Array(tokens * n);
  for (let t = 0; t < tokens; t++) {
    for (let r = 0; r < n; r++) {
      let sum = 0;
      for (let i = 0; i < k; i++) sum += at(x, t * k + i) * at(dense, r * k + i);
      y[t * n + r] = sum;
    }
  }
  return y;
}

/** Positions that a byte of metadata keeps, of the 8 weights it covers, ascending. */
export function kept(byte: number): number[] {
  return [byte & 3, (byte >> 2) & 3, 4 + ((byte >> 4) & 3), 4 + (byte >> 6)];
}

/**
 * The CPU's packed form, written from its description (kernels/cpu/packed24.h): groups of 8 rows by blocks of 64 columns, a tile's
 * metadata before its values; in a whole block the even and the odd words of each half are 8 consecutive values.
 */
export function packed24(w: Uint16Array, meta: Uint8Array, n: number, k: number): Uint8Array {
  const bytes: number[] = [];
  const halfWord = (word: number): void => void bytes.push(word & 255, word >> 8);
  for (let group = 0; group < n; group += 8) {
    const rows = Array.from({ length: Math.min(8, n - group) }, (_, r) => group + r);
    for (let column = 0; column < k; column += 64) {
      const columns = Math.min(64, k - column);
      const metaOf = (row: number): Uint8Array =>
        meta.subarray((row * k + column) / 8, (row * k + column + columns) / 8);
      for (const row of rows) bytes.push(...metaOf(row));
      for (const row of rows) {
        const values: number[] = [];
        metaOf(row).forEach((byte, b) => values.push(...kept(byte).map((i) => at(w, row * k + column + 8 * b + i))));
        if (columns < 64) values.forEach(halfWord);
        else
          for (const half of [0, 16])
            for (let j = 0; j < 8; j++) for (const odd of [0, 8]) halfWord(at(values, half + odd + j));
      }
    }
  }
  return Uint8Array.from(bytes);
}

/** The dense matrix with 0 where nothing is kept. */
export function select24(w: Uint16Array, meta: Uint8Array): Uint16Array {
  const out = new Uint16Array(w.length);
  meta.forEach((byte, b) => kept(byte).forEach((i) => (out[8 * b + i] = at(w, 8 * b + i))));
  return out;
}

export function rmsnorm(x: Float32Array, gain: Float32Array, rows: number, dim: number, eps: number): Float64Array {
  const out = new Float64Array(rows * dim);
  for (let r = 0; r < rows; r++) {
    let squares = 0;
    for (let i = 0; i < dim; i++) squares += at(x, r * dim + i) ** 2;
    const inverse = 1 / Math.sqrt(squares / dim + eps);
    for (let i = 0; i < dim; i++) out[r * dim + i] = at(x, r * dim + i) * inverse * at(gain, i);
  }
  return out;
}

/** Every head's pair (i, i + hd/2) is the complex number rotated by the angle of (position, i). */
export function rope(
  x: Float32Array,
  angle: (position: number, i: number) => number,
  start: number,
  tokens: number,
  heads: number,
  headDim: number,
): Float64Array {
  const out = Float64Array.from(x);
  const half = headDim / 2;
  for (let t = 0; t < tokens; t++) {
    for (let h = 0; h < heads; h++) {
      for (let i = 0; i < half; i++) {
        const a = (t * heads + h) * headDim + i;
        const cos = Math.fround(Math.cos(angle(start + t, i)));
        const sin = Math.fround(Math.sin(angle(start + t, i)));
        out[a] = at(x, a) * cos - at(x, a + half) * sin;
        out[a + half] = at(x, a + half) * cos + at(x, a) * sin;
      }
    }
  }
  return out;
}

export interface AttentionShape {
  readonly start: number;
  readonly tokens: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly capacity: number;
  readonly scale: number;
  readonly window: number;
}

/** q (T, H, hd) over caches (KV, capacity, hd) → (T, H, hd). */
export function attention(q: Float32Array, k: Float32Array, v: Float32Array, s: AttentionShape): Float64Array {
  const out = new Float64Array(s.tokens * s.heads * s.headDim);
  for (let t = 0; t < s.tokens; t++) {
    for (let h = 0; h < s.heads; h++) {
      const position = s.start + t;
      const first = s.window > 0 ? Math.max(0, position - s.window + 1) : 0;
      const row = (t * s.heads + h) * s.headDim;
      const key = (p: number): number => (Math.floor(h / (s.heads / s.kvHeads)) * s.capacity + p) * s.headDim;
      const scores: number[] = [];
      for (let p = first; p <= position; p++) {
        let dot = 0;
        for (let i = 0; i < s.headDim; i++) dot += at(q, row + i) * at(k, key(p) + i);
        scores.push(dot * s.scale);
      }
      const largest = Math.max(...scores);
      const exps = scores.map((score) => Math.exp(score - largest));
      const total = exps.reduce((a, b) => a + b, 0);
      exps.forEach((e, j) => {
        for (let i = 0; i < s.headDim; i++) out[row + i] = at(out, row + i) + (e / total) * at(v, key(first + j) + i);
      });
    }
  }
  return out;
}

/** xᵀx (K, K) for x (T, K). */
export function gram(x: Float32Array, tokens: number, k: number): Float64Array {
  const out = new Float64Array(k * k);
  for (let i = 0; i < k; i++) {
    for (let j = 0; j < k; j++) {
      let sum = 0;
      for (let t = 0; t < tokens; t++) sum += at(x, t * k + i) * at(x, t * k + j);
      out[i * k + j] = sum;
    }
  }
  return out;
}

/** Lower Cholesky factor of a (K, K) matrix. */
export function cholesky(a: Float64Array, k: number): Float64Array {
  const l = new Float64Array(k * k);
  for (let i = 0; i < k; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = at(a, i * k + j);
      for (let m = 0; m < j; m++) sum -= at(l, i * k + m) * at(l, j * k + m);
      l[i * k + j] = i === j ? Math.sqrt(sum) : sum / at(l, j * k + j);
    }
  }
  return l;
}

/** a⁻¹ from its lower Cholesky factor, by solving for each unit vector. */
export function inverse(l: Float64Array, k: number): Float64Array {
  const out = new Float64Array(k * k);
  for (let c = 0; c < k; c++) {
    const y = new Float64Array(k);
    for (let i = 0; i < k; i++) {
      let sum = i === c ? 1 : 0;
      for (let m = 0; m < i; m++) sum -= at(l, i * k + m) * at(y, m);
      y[i] = sum / at(l, i * k + i);
    }
    for (let i = k - 1; i >= 0; i--) {
      let sum = at(y, i);
      for (let m = i + 1; m < k; m++) sum -= at(l, m * k + i) * at(out, m * k + c);
      out[i * k + c] = sum / at(l, i * k + i);
    }
  }
  return out;
}

/** The byte-wise two best of each group: ties go to the lower position. */
export function bestTwo(scores: ArrayLike<number>): Uint8Array {
  const meta = new Uint8Array(scores.length / 8);
  for (let g = 0; g < scores.length / 4; g++) {
    const order = [0, 1, 2, 3].sort((a, b) => at(scores, 4 * g + b) - at(scores, 4 * g + a) || a - b);
    const [a = 0, b = 0] = order.slice(0, 2).sort((p, q) => p - q);
    meta[g >> 1] = (meta[g >> 1] ?? 0) | ((a | (b << 2)) << (4 * (g & 1)));
  }
  return meta;
}

function at(array: ArrayLike<number>, i: number): number {
  const value = array[i];
  if (value === undefined) throw new RangeError(`index ${i} of ${array.length}`);
  return value;
}
