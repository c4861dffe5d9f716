/** The training ops by their definitions, in fp64, and gradients by central differences: what the kernels are compared with. */
import { fromBf16 } from './numbers.js';

/** ∂f/∂x at `x`, by central differences: good to about 1e-9 for smooth f of order 1. */
export function numericGradient(f: (x: Float64Array) => number, x: ArrayLike<number>): Float64Array {
  const at = Float64Array.from(x);
  return at.map((value, i) => {
    const h = 1e-5 * Math.max(1, Math.abs(value));
    at[i] = value + h;
    const above = f(at);
    at[i] = value - h;
    const below = f(at);
    at[i] = value;
    return (above - below) / (2 * h);
  });
}

/** Σ a·b. */
export function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += get(a, i) * get(b, i);
  return sum;
}

/** y (rows, N) = x (rows, K) wᵀ for w (N, K). */
export function linear(x: ArrayLike<number>, w: ArrayLike<number>, rows: number, n: number, k: number): Float64Array {
  return product(
    rows,
    n,
    k,
    (r, i) => get(x, r * k + i),
    (c, i) => get(w, c * k + i),
  );
}

/** dx (rows, K) = dy (rows, N) w. */
export function linearInput(
  dy: ArrayLike<number>,
  w: ArrayLike<number>,
  rows: number,
  n: number,
  k: number,
): Float64Array {
  return product(
    rows,
    k,
    n,
    (r, i) => get(dy, r * n + i),
    (c, i) => get(w, i * k + c),
  );
}

/** dw (N, K) = dyᵀ x. */
export function linearWeight(
  dy: ArrayLike<number>,
  x: ArrayLike<number>,
  rows: number,
  n: number,
  k: number,
): Float64Array {
  return product(
    n,
    k,
    rows,
    (r, i) => get(dy, i * n + r),
    (c, i) => get(x, i * k + c),
  );
}

export function rmsnorm(x: ArrayLike<number>, gain: ArrayLike<number>, dim: number, eps: number): Float64Array {
  const out = new Float64Array(x.length);
  for (let r = 0; r < x.length; r += dim) {
    let squares = 0;
    for (let i = 0; i < dim; i++) squares += get(x, r + i) ** 2;
    for (let i = 0; i < dim; i++) out[r + i] = (get(x, r + i) * get(gain, i)) / Math.sqrt(squares / dim + eps);
  }
  return out;
}

export function siluMul(gate: ArrayLike<number>, up: ArrayLike<number>): Float64Array {
  return Float64Array.from(gate, (g, i) => (g / (1 + Math.exp(-g))) * get(up, i));
}

export function logSoftmax(row: ArrayLike<number>): Float64Array {
  const largest = Math.max(...Array.from(row));
  let sum = 0;
  for (let i = 0; i < row.length; i++) sum += Math.exp(get(row, i) - largest);
  return Float64Array.from(row, (x) => x - largest - Math.log(sum));
}

/** Sums over rows of −log p(target) and of KL(teacher ‖ student). */
export function losses(
  logits: ArrayLike<number>,
  teacher: ArrayLike<number> | undefined,
  targets: ArrayLike<number>,
  vocab: number,
): { lm: number; kl: number } {
  const row = (from: ArrayLike<number>, r: number): Float64Array =>
    logSoftmax(Float64Array.from({ length: vocab }, (_, i) => get(from, r * vocab + i)));
  let [lm, kl] = [0, 0];
  for (let r = 0; r < targets.length; r++) {
    const student = row(logits, r);
    lm -= get(student, get(targets, r));
    if (teacher) row(teacher, r).forEach((t, i) => (kl += Math.exp(t) * (t - get(student, i))));
  }
  return { lm, kl };
}

export interface BatchShape {
  readonly batch: number;
  readonly tokens: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly scale: number;
  readonly window: number;
}

export interface AttentionResult {
  readonly out: Float64Array;
  readonly lse: Float64Array;
  readonly dq: Float64Array;
  readonly dk: Float64Array;
  readonly dv: Float64Array;
}

/** Causal attention of whole sequences and its gradient for ∂L/∂out = dout. */
export function attention(
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  v: ArrayLike<number>,
  dout: ArrayLike<number>,
  s: BatchShape,
): AttentionResult {
  const { headDim: hd, heads, kvHeads, tokens } = s;
  const [out, dq] = [new Float64Array(q.length), new Float64Array(q.length)];
  const [dk, dv] = [new Float64Array(k.length), new Float64Array(k.length)];
  const lse = new Float64Array(s.batch * heads * tokens);
  for (let b = 0; b < s.batch; b++) {
    for (let h = 0; h < heads; h++) {
      const row = (t: number): number => ((b * tokens + t) * heads + h) * hd;
      const key = (t: number): number => ((b * tokens + t) * kvHeads + Math.floor(h / (heads / kvHeads))) * hd;
      for (let t = 0; t < tokens; t++) {
        const first = s.window > 0 ? Math.max(0, t - s.window + 1) : 0;
        const keys = Array.from({ length: t + 1 - first }, (_, i) => first + i);
        const scores = keys.map((j) => s.scale * span(q, row(t), k, key(j), hd));
        const logs = logSoftmax(scores);
        lse[(b * heads + h) * tokens + t] = get(scores, 0) - get(logs, 0);
        const p = logs.map(Math.exp);
        keys.forEach((j, i) => axpy(out, row(t), get(p, i), v, key(j), hd));
        const dp = keys.map((j) => span(dout, row(t), v, key(j), hd));
        const mean = dot(p, dp);
        keys.forEach((j, i) => {
          const ds = get(p, i) * (get(dp, i) - mean) * s.scale;
          axpy(dv, key(j), get(p, i), dout, row(t), hd);
          axpy(dq, row(t), ds, k, key(j), hd);
          axpy(dk, key(j), ds, q, row(t), hd);
        });
      }
    }
  }
  return { out, lse, dq, dk, dv };
}

/** MaskLLM's Eq. 6 and 7: w ⊙ M̃, with the bit masks of the patterns (bit j: position j is kept). */
export function gumbelMask(
  w: Uint16Array,
  logits: ArrayLike<number>,
  noise: ArrayLike<number>,
  patterns: ArrayLike<number>,
  m: number,
  scale: number,
  temperature: number,
): Float64Array {
  const count = patterns.length;
  const out = new Float64Array(w.length);
  for (let g = 0; g < w.length / m; g++) {
    const z = Array.from({ length: count }, (_, i) => {
      const at = g * count + i;
      return (get(logits, at) * scale + get(noise, at)) / temperature;
    });
    logSoftmax(z).forEach((log, i) => {
      for (let j = 0; j < m; j++) {
        if ((get(patterns, i) >> j) & 1) out[g * m + j] = get(out, g * m + j) + Math.exp(log);
      }
    });
  }
  return out.map((soft, i) => soft * fromBf16(get(w, i)));
}

/** Philox4x32-10 (Salmon et al. 2011): four words from a counter of four and a key of two. */
export function philox(counter: readonly number[], key: readonly number[]): number[] {
  let [a = 0, b = 0, c = 0, d = 0] = counter;
  let [low = 0, high = 0] = key;
  for (let round = 0; round < 10; round++) {
    const [first, second] = [0xd2511f53n * BigInt(a), 0xcd9e8d57n * BigInt(c)];
    const upper = (x: bigint): number => Number(x >> 32n);
    const lower = (x: bigint): number => Number(x & 0xffffffffn);
    [a, b, c, d] = [(upper(second) ^ b ^ low) >>> 0, lower(second), (upper(first) ^ d ^ high) >>> 0, lower(first)];
    low = (low + 0x9e3779b9) >>> 0;
    high = (high + 0xbb67ae85) >>> 0;
  }
  return [a, b, c, d];
}

/** The Gumbel noise (groups, P) that `gumbelMask` draws. */
export function gumbelNoise(
  groups: number,
  patterns: number,
  seed: number,
  step: number,
  tensor: number,
): Float64Array {
  const key = [seed % 2 ** 32, Math.floor(seed / 2 ** 32)];
  const noise = new Float64Array(groups * patterns);
  for (let g = 0; g < groups; g++) {
    for (let quad = 0; 4 * quad < patterns; quad++) {
      philox([g, quad, tensor, step], key).forEach((word, i) => {
        const uniform = Math.min(1 - 2 ** -23, Math.max(1e-9, (word >>> 8) / 2 ** 24));
        if (4 * quad + i < patterns) noise[g * patterns + 4 * quad + i] = -Math.log(-Math.log(uniform));
      });
    }
  }
  return noise;
}

function product(
  rows: number,
  columns: number,
  depth: number,
  a: (row: number, i: number) => number,
  b: (column: number, i: number) => number,
): Float64Array {
  const out = new Float64Array(rows * columns);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      let sum = 0;
      for (let i = 0; i < depth; i++) sum += a(r, i) * b(c, i);
      out[r * columns + c] = sum;
    }
  }
  return out;
}

function span(a: ArrayLike<number>, i: number, b: ArrayLike<number>, j: number, n: number): number {
  let sum = 0;
  for (let d = 0; d < n; d++) sum += get(a, i + d) * get(b, j + d);
  return sum;
}

/** y[i…] += factor · x[j…]. */
function axpy(y: Float64Array, i: number, factor: number, x: ArrayLike<number>, j: number, n: number): void {
  for (let d = 0; d < n; d++) y[i + d] = get(y, i + d) + factor * get(x, j + d);
}

function get(array: ArrayLike<number>, i: number): number {
  const value = array[i];
  if (value === undefined) throw new RangeError(`index ${i} of ${array.length}`);
  return value;
}
