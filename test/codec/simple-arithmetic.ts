/** `uniform-ac` of the second decoder, a bit at a time. */

/** FORMAT.md §8.4. */
export function decodeArithmetic(chunk: Uint8Array, patterns: number, count: number): number[] {
  const [P, quarter, half, full] = [BigInt(patterns), 1n << 29n, 1n << 30n, 1n << 31n];
  let position = 0;
  const nextBit = (): bigint => {
    const byte = chunk[position >> 3] ?? 0;
    return BigInt((byte >> (7 - (position++ & 7))) & 1);
  };
  let [low, high, code] = [0n, full - 1n, 0n];
  for (let i = 0; i < 31; i++) code = 2n * code + nextBit();
  const symbols: number[] = [];
  for (let i = 0; i < count; i++) {
    const range = high - low + 1n;
    const s = ((code - low + 1n) * P - 1n) / range;
    symbols.push(Number(s));
    high = low + (range * (s + 1n)) / P - 1n;
    low = low + (range * s) / P;
    for (;;) {
      const shift =
        high < half ? 0n : low >= half ? half : low >= quarter && high < half + quarter ? quarter : undefined;
      if (shift === undefined) break;
      low = 2n * (low - shift);
      high = 2n * (high - shift) + 1n;
      code = 2n * (code - shift) + nextBit();
    }
  }
  return symbols;
}
