/** Elements of the three types that weights come in, widened to fp32, which holds each of them exactly, and rounded to bf16. */
import type { DType } from '../../kernels/handle.js';

export const ELEMENT_BYTES: Readonly<Record<DType, number>> = { bf16: 2, f16: 2, f32: 4 };

let halves: Uint32Array | undefined;

/**
 * The fp32 bit patterns of `bytes`, whole little-endian elements of `type`, in `into` (elements). `bytes` must begin at a multiple of
 * the element's size in its buffer.
 */
export function widen(type: DType, bytes: Uint8Array, into: Uint32Array): void {
  const count = bytes.length / ELEMENT_BYTES[type];
  if (type === 'f32') {
    into.set(new Uint32Array(bytes.buffer, bytes.byteOffset, count));
    return;
  }
  const elements = new Uint16Array(bytes.buffer, bytes.byteOffset, count);
  if (type === 'bf16') {
    for (let i = 0; i < count; i++) into[i] = elements[i]! << 16;
  } else {
    halves ??= Uint32Array.from({ length: 65536 }, (_, half) => widenHalf(half));
    for (let i = 0; i < count; i++) into[i] = halves[elements[i]!]!;
  }
}

/** bf16 bit patterns of fp32 ones, as the kernels' toBf16 rounds: to the nearest, ties to even; a NaN stays a quiet NaN. */
export function roundToBf16(floats: Uint32Array): Uint16Array {
  const rounded = new Uint16Array(floats.length);
  for (let i = 0; i < rounded.length; i++) {
    const bits = floats[i]!;
    const isNan = (bits & 0x7fffffff) > 0x7f800000;
    rounded[i] = isNan ? (bits >>> 16) | 0x40 : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
  }
  return rounded;
}

/** IEEE 754 binary16 → binary32: 1 sign bit, 5 of exponent (bias 15), 10 of fraction. */
function widenHalf(half: number): number {
  const sign = (half & 0x8000) << 16;
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  if (exponent === 31) return sign | 0x7f800000 | (fraction << 13);
  if (exponent > 0) return sign | ((exponent + 112) << 23) | (fraction << 13);
  if (fraction === 0) return sign;
  const shift = Math.clz32(fraction) - 21; // a subnormal half is a normal float: move its leading one to bit 10
  return sign | ((113 - shift) << 23) | (((fraction << shift) & 1023) << 13);
}
