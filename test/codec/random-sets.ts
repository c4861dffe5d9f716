/** Mask sets from a seed: the same seed, the same set. */
import type { Mask, MaskSet } from '../../codec/mask-set.js';
import { patternTable } from '../../codec/pattern.js';

/** mulberry32: uniform integers in [0, below). */
export function randomIntegers(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let word = Math.imul(state ^ (state >>> 15), state | 1);
    word = (word + Math.imul(word ^ (word >>> 7), word | 61)) ^ word;
    return Math.floor((((word ^ (word >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

export function randomSymbols(seed: number, length: number, patterns: number): Uint8Array {
  const random = randomIntegers(seed);
  return Uint8Array.from({ length }, () => random(patterns));
}

/** `shapes`: name → [rows, cols]. */
export function randomSet(
  seed: number,
  [n, m]: readonly [n: number, m: number],
  shapes: Readonly<Record<string, readonly [rows: number, cols: number]>>,
  parent?: string,
): MaskSet {
  const patterns = patternTable(n, m).count;
  const masks = Object.entries(shapes).map(([name, [rows, cols]], i): Mask => ({
    name,
    rows,
    cols,
    symbols: randomSymbols(seed + i, (rows * cols) / m, patterns),
  }));
  return { n, m, base: BASE, ...(parent === undefined ? {} : { parent }), masks };
}

export const BASE = 'ba5e'.repeat(16);
export const OTHER_BASE = '07e4'.repeat(16);
