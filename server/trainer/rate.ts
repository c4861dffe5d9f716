/** How far a mask is from its parent, and what it will cost to store: changed groups, and conditional entropy H(pattern | parent's pattern) by matrix. */

export interface Rate {
  readonly groups: number;
  readonly changed: number;
  /** Conditional entropy in bits, all groups together. */
  readonly bits: number;
}

export const NO_RATE: Rate = { groups: 0, changed: 0, bits: 0 };

/** Compares two matrices' masks, two groups a byte. Entropy of the empirical 16 × 16 table of nibble pairs. */
export function rateOf(parent: Uint8Array, child: Uint8Array): Rate {
  const pairs = new Float64Array(256);
  for (let i = 0; i < parent.length; i++) {
    const [p, c] = [parent[i] as number, child[i] as number];
    pairs[((p & 15) << 4) | (c & 15)]! += 1;
    pairs[(p & 0xf0) | (c >> 4)]! += 1;
  }
  let [changed, bits] = [0, 0];
  for (let p = 0; p < 16; p++) {
    const row = pairs.subarray(p * 16, p * 16 + 16);
    const total = row.reduce((sum, count) => sum + count, 0);
    row.forEach((count, c) => {
      if (count === 0) return;
      bits -= count * Math.log2(count / total);
      if (c !== p) changed += count;
    });
  }
  return { groups: parent.length * 2, changed, bits };
}

export function addRates(a: Rate, b: Rate): Rate {
  return { groups: a.groups + b.groups, changed: a.changed + b.changed, bits: a.bits + b.bits };
}

export function changedShare({ changed, groups }: Rate): number {
  return groups === 0 ? 0 : changed / groups;
}

/** Groups are of four weights. */
export function bitsPerParameter({ bits, groups }: Rate): number {
  return groups === 0 ? 0 : bits / (groups * 4);
}
