/** How far a mask is from its parent, and what it will cost to store: changed groups, and conditional entropy H(pattern | parent's pattern) by matrix. */
import type { PatternTable } from '../../codec/pattern.js';
import { isTwoOfFour, TWO_OF_FOUR } from './n-of-m.js';

const NIBBLES = 16;

export interface Rate {
  readonly groups: number;
  readonly changed: number;
  /** Conditional entropy in bits, all groups together. */
  readonly bits: number;
}

export const NO_RATE: Rate = { groups: 0, changed: 0, bits: 0 };

/** Compares two matrices' masks in canonical codes. Entropy of the empirical table of pattern pairs. */
export function rateOf(parent: Uint8Array, child: Uint8Array, pattern: PatternTable = TWO_OF_FOUR): Rate {
  const side = isTwoOfFour(pattern) ? NIBBLES : pattern.count;
  const pairs = isTwoOfFour(pattern) ? nibblePairs(parent, child) : symbolPairs(parent, child, side);
  let [groups, changed, bits] = [0, 0, 0];
  for (let p = 0; p < side; p++) {
    const row = pairs.subarray(p * side, (p + 1) * side);
    const total = row.reduce((sum, count) => sum + count, 0);
    groups += total;
    row.forEach((count, c) => {
      if (count === 0) return;
      bits -= count * Math.log2(count / total);
      if (c !== p) changed += count;
    });
  }
  return { groups, changed, bits };
}

/** Two groups a byte. */
function nibblePairs(parent: Uint8Array, child: Uint8Array): Float64Array {
  const pairs = new Float64Array(NIBBLES * NIBBLES);
  for (let i = 0; i < parent.length; i++) {
    const [p, c] = [parent[i] as number, child[i] as number];
    pairs[((p & 15) << 4) | (c & 15)]! += 1;
    pairs[(p & 0xf0) | (c >> 4)]! += 1;
  }
  return pairs;
}

function symbolPairs(parent: Uint8Array, child: Uint8Array, count: number): Float64Array {
  const pairs = new Float64Array(count * count);
  for (let i = 0; i < parent.length; i++) pairs[(parent[i] as number) * count + (child[i] as number)]! += 1;
  return pairs;
}

export function addRates(a: Rate, b: Rate): Rate {
  return { groups: a.groups + b.groups, changed: a.changed + b.changed, bits: a.bits + b.bits };
}

export function changedShare({ changed, groups }: Rate): number {
  return groups === 0 ? 0 : changed / groups;
}

/** `m`: weights of a group. */
export function bitsPerParameter({ bits, groups }: Rate, m = TWO_OF_FOUR.m): number {
  return groups === 0 ? 0 : bits / (groups * m);
}
