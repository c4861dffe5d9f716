/** ggml's Q8_0 (ggml-quants.c, quantize_row_q8_0_ref): blocks of 32 weights, an fp16 scale and 32 signed bytes each. */

const BLOCK = 32;
const BLOCK_BYTES = 34;

/** Throws unless the weights are whole blocks. */
export function q8Blocks(weights: Float32Array): Uint8Array {
  if (weights.length % BLOCK !== 0)
    throw new Error(`expected whole blocks of ${BLOCK} but received ${weights.length} weights`);
  const bytes = Buffer.alloc((weights.length / BLOCK) * BLOCK_BYTES);
  for (let block = 0; block < weights.length / BLOCK; block++) {
    const values = weights.subarray(block * BLOCK, (block + 1) * BLOCK);
    let largest = 0;
    for (const value of values) largest = Math.max(largest, Math.abs(value));
    const scale = Math.fround(largest / 127);
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    const at = block * BLOCK_BYTES;
    bytes.writeUInt16LE(half(scale), at);
    for (let i = 0; i < BLOCK; i++)
      bytes.writeInt8(roundAway(Math.fround((values[i] as number) * inverse)), at + 2 + i);
  }
  return bytes;
}

/** C's roundf: halves away from zero. */
function roundAway(value: number): number {
  return Math.sign(value) * Math.floor(Math.abs(value) + 0.5);
}

/** The nearest IEEE 754 binary16 of a number in [0, 65504], ties to even. */
function half(value: number): number {
  if (value === 0) return 0;
  const exponent = Math.max(Math.floor(Math.log2(value)), -14);
  const steps = value / 2 ** (exponent - 10); // 1024…2047 for a normal number
  const floor = Math.floor(steps);
  const rest = steps - floor;
  const rounded = rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
  return (exponent + 14) * 1024 + rounded; // a carry, and a normal's leading one, raise the exponent
}
