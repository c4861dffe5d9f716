/** Mask sets from a seed: the same seed, the same set. */
import { contentDigest } from '../../codec/content-digest.js';
import type { DecodeContext, WeightsLookup } from '../../codec/context.js';
import type { Mask, MaskSet } from '../../codec/mask-set.js';
import { patternTable } from '../../codec/pattern.js';
import type { SimpleContainer, SimpleContext } from './simple-container.js';

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

/** bf16 bit patterns of about normal weights, with ties: for every name the same. */
export function randomWeights(
  seed: number,
  shapes: Readonly<Record<string, readonly [rows: number, cols: number]>>,
): WeightsLookup {
  const weights = new Map(
    Object.entries(shapes).map(([name, [rows, cols]], i) => {
      const random = randomIntegers(seed + 7919 * i);
      const one = (): number => (random(2) << 15) | (0x3c00 + random(200) + random(200) + random(200));
      return [name, Uint16Array.from({ length: rows * cols }, one)];
    }),
  );
  return (name: string): Uint16Array | undefined => weights.get(name);
}

/** A child of `parent`: about `changed` of 10,000 groups have another symbol. */
export function randomChild(seed: number, parent: MaskSet, changed: number): MaskSet {
  const random = randomIntegers(seed);
  const { count } = patternTable(parent.n, parent.m);
  const change = (symbol: number): number =>
    random(10_000) < changed ? (symbol + 1 + (random(3) > 0 ? 0 : random(count - 1))) % count : symbol;
  const masks = parent.masks.map((mask) => ({ ...mask, symbols: mask.symbols.map(change) }));
  return { ...parent, parent: contentDigest(parent), masks };
}

/** The same context for the second decoder. */
export function simpleContext({ parent, weights }: DecodeContext): SimpleContext {
  return {
    ...(parent === undefined ? {} : { parent: simpleContainer(parent) }),
    ...(weights === undefined ? {} : { weights }),
  };
}

function simpleContainer({ n, m, base, masks }: MaskSet): SimpleContainer {
  const tensors = masks.map((mask) => ({ ...mask, symbols: [...mask.symbols] }));
  return { n, m, base, content: '', parent: undefined, tensors };
}
