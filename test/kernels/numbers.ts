/** Numbers for kernel tests: a seeded generator, bf16 by its definition, and the error norm by which results are compared. */
import assert from 'node:assert/strict';

/** Uniform in [0, 1), the same sequence for the same seed (mulberry32). */
export type Random = () => number;

export function random(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `n` values in [−1, 1). */
export function floats(next: Random, n: number): Float32Array {
  return Float32Array.from({ length: n }, () => next() * 2 - 1);
}

/** `n` bf16 weights in [−1, 1), some of them −0.0. */
export function weights(next: Random, n: number): Uint16Array {
  return Uint16Array.from({ length: n }, () => (next() < 0.02 ? 0x8000 : toBf16(next() * 2 - 1)));
}

/** The nibbles of the six patterns, in lexicographic order of kept positions. */
export const NIBBLES = [4, 8, 12, 9, 13, 14] as const;

/** `bytes` of random valid metadata. */
export function metadata(next: Random, bytes: number): Uint8Array {
  const nibble = (): number => NIBBLES[Math.floor(next() * 6)] ?? 4;
  return Uint8Array.from({ length: bytes }, () => nibble() | (nibble() << 4));
}

/** `meta` with some of its groups' masks changed, mostly by one swap. */
export function changed(next: Random, meta: Uint8Array, share: number): Uint8Array {
  const change = (nibble: number): number => (next() < share ? (NIBBLES[Math.floor(next() * 6)] ?? nibble) : nibble);
  return meta.map((byte) => change(byte & 15) | (change(byte >> 4) << 4));
}

const word = new DataView(new ArrayBuffer(4));

/** Nearest bf16, ties to even. */
export function toBf16(x: number): number {
  word.setFloat32(0, x);
  const bits = word.getUint32(0);
  if (Number.isNaN(x)) return (bits >>> 16) | 0x40;
  const rest = bits & 0xffff;
  const up = rest > 0x8000 || (rest === 0x8000 && ((bits >>> 16) & 1) === 1);
  return ((bits >>> 16) + (up ? 1 : 0)) & 0xffff;
}

export function fromBf16(bits: number): number {
  word.setUint32(0, bits << 16);
  return word.getFloat32(0);
}

export function roundedToBf16(x: ArrayLike<number>): Float64Array {
  return Float64Array.from({ length: x.length }, (_, i) => fromBf16(toBf16(x[i] ?? NaN)));
}

/** IEEE binary16 by its definition. */
export function fromF16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** ‖actual − expected‖ / ‖expected‖. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  assert.equal(actual.length, expected.length);
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    const e = expected[i] ?? NaN;
    difference += ((actual[i] ?? NaN) - e) ** 2;
    norm += e ** 2;
  }
  return norm === 0 ? Math.sqrt(difference) : Math.sqrt(difference / norm);
}

/** Bit by bit: −0.0 is not 0.0. */
export function assertSameBits(actual: ArrayBufferView, expected: ArrayBufferView, message: string): void {
  const bytes = (view: ArrayBufferView): Uint8Array => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  assert.equal(Buffer.compare(bytes(actual), bytes(expected)), 0, message);
}
