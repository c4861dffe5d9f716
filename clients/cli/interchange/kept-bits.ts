/**
 * Foreign 2:4 masks → symbols. Others write where weights are not zero, so a kept weight that is 0 is missing from their masks: a group
 * may keep fewer than two. Positions where the base is 0 complete it without changing what the matrix computes.
 */
import { patternTable } from '../../../codec/pattern.js';

/** Where further kept positions come from: the base's zeros alone, or then its largest magnitudes. */
export type Completion = 'zeros' | 'magnitude';

/** What the groups of a mask, or of several, were like. */
export interface GroupCounts {
  groups: number;
  /** Groups with fewer than two kept weights, completed at zeros of the base. */
  completedAtZeros: number;
  /** Completed at the base's largest magnitudes, at least in part. */
  completedByMagnitude: number;
  /** Groups that could not be completed, and where the first is. */
  tooFew: number;
  firstTooFew: string | undefined;
  /** Groups that keep more than two. */
  tooMany: number;
  firstTooMany: string | undefined;
}

export interface GroupsToComplete {
  /** For messages. */
  readonly name: string;
  readonly cols: number;
  /** Bit i of a byte is set where position i of the group is kept. (groups) */
  readonly kept: Uint8Array;
  /** Index of the first of these groups in its matrix. */
  readonly firstGroup: number;
  /** fp32 bits of the base's weights (groups · 4); asked for only when a group needs completing. */
  readonly base: () => Uint32Array;
}

const { symbolOfMask } = patternTable(2, 4);
const KEPT_COUNT = Uint8Array.from({ length: 16 }, (_, kept) => [0, 1, 2, 3].filter((i) => kept & (1 << i)).length);

export function noGroups(): GroupCounts {
  const none = { groups: 0, completedAtZeros: 0, completedByMagnitude: 0, tooFew: 0, tooMany: 0 };
  return { ...none, firstTooFew: undefined, firstTooMany: undefined };
}

/**
 * Writes the symbols of `groups` to `symbols` (groups) and counts what they were like. Groups that are no 2:4 pattern and can't
 * become one are counted too: `refuseDefects` says so for all of them at once. Their symbols mean nothing.
 */
export function completeGroups(
  groups: GroupsToComplete,
  completion: Completion,
  symbols: Uint8Array,
  counts: GroupCounts,
): void {
  const { kept } = groups;
  let base: Uint32Array | undefined;
  counts.groups += kept.length;
  for (let g = 0; g < kept.length; g++) {
    const bits = kept[g]!;
    if (KEPT_COUNT[bits] === 2) {
      symbols[g] = symbolOfMask[bits]!;
    } else if (KEPT_COUNT[bits]! > 2) {
      counts.tooMany++;
      counts.firstTooMany ??= place(groups, g);
    } else {
      base ??= groups.base();
      symbols[g] = symbolOfMask[completed(groups, g, base, completion, counts)]!;
    }
  }
}

/** Adds the counts of one matrix to those of all. */
export function addCounts(to: GroupCounts, more: GroupCounts): void {
  to.groups += more.groups;
  to.completedAtZeros += more.completedAtZeros;
  to.completedByMagnitude += more.completedByMagnitude;
  to.tooFew += more.tooFew;
  to.firstTooFew ??= more.firstTooFew;
  to.tooMany += more.tooMany;
  to.firstTooMany ??= more.firstTooMany;
}

/** Throws one line with the count if a group could not be made to keep exactly two weights. `source` is named in it. */
export function refuseDefects(source: string, counts: GroupCounts): void {
  const { groups, tooMany, firstTooMany, tooFew, firstTooFew } = counts;
  if (tooMany > 0) {
    throw new Error(
      `${source}: expected at most 2 kept weights in every group of 4, but ${tooMany} of ${groups} groups keep more, the first in ${firstTooMany}: it is not 2:4`,
    );
  }
  if (tooFew > 0) {
    throw new Error(
      `${source}: ${tooFew} of ${groups} groups keep fewer than 2 weights where the base has too few zeros to complete them, the first in ${firstTooFew}; ` +
        '--complete magnitude adds the largest weights, which changes what the mask computes',
    );
  }
}

/** Kept bits of group `g` with the missing ones added; its own bits, counted, where that is not allowed. */
function completed(
  groups: GroupsToComplete,
  g: number,
  base: Uint32Array,
  completion: Completion,
  counts: GroupCounts,
): number {
  let bits = groups.kept[g]!;
  const magnitude = (i: number): number => base[4 * g + i]! & 0x7fffffff; // fp32 magnitudes order as their bits do
  for (let i = 0; i < 4 && KEPT_COUNT[bits]! < 2; i++) if (magnitude(i) === 0) bits |= 1 << i;
  if (KEPT_COUNT[bits] === 2) {
    counts.completedAtZeros++;
    return bits;
  }
  if (completion === 'zeros') {
    counts.tooFew++;
    counts.firstTooFew ??= place(groups, g);
    return bits;
  }
  counts.completedByMagnitude++;
  while (KEPT_COUNT[bits]! < 2) {
    const left = [0, 1, 2, 3].filter((i) => !(bits & (1 << i)));
    bits |= 1 << left.reduce((best, i) => (magnitude(i) > magnitude(best) ? i : best));
  }
  return bits;
}

/** `model.layers.0.mlp.up_proj.weight, row 3, columns 8 to 11` */
function place({ name, cols, firstGroup }: GroupsToComplete, g: number): string {
  const weight = 4 * (firstGroup + g);
  const col = weight % cols;
  return `${name}, row ${Math.floor(weight / cols)}, columns ${col} to ${col + 3}`;
}
