/** A child of a 2:4 mask as training makes it: some groups changed, each by one swap. */
import type { Random } from '../../server/engine/random.js';

/** Canonical nibbles (two groups a byte) with `share` of the groups changed. */
export function swapped(nibbles: Uint8Array, share: number, random: Random): Uint8Array {
  const child = nibbles.slice();
  const groups = nibbles.length * 2;
  const below = (limit: number): number => Math.floor(random.uniform() * limit);
  for (let left = Math.round(groups * share); left > 0; left--) {
    const group = below(groups);
    const shift = (group & 1) * 4;
    const byte = child[group >> 1] as number;
    const kept = [(byte >> shift) & 3, (byte >> (shift + 2)) & 3];
    const pruned = [0, 1, 2, 3].filter((position) => !kept.includes(position));
    kept[below(2)] = pruned[below(2)] as number;
    const nibble = Math.min(...kept) | (Math.max(...kept) << 2);
    child[group >> 1] = (byte & ~(15 << shift)) | (nibble << shift);
  }
  return child;
}
