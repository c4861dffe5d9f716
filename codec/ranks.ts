/**
 * What the frozen weights say about a group: the order of its magnitudes and how clear it is. FORMAT.md §2 ("Ranks") and §7.
 * All integers: bf16 bit patterns without their sign are ordered like magnitudes, and differences of 128 are a factor of two.
 */
import type { PatternTable } from './pattern.js';

const MAGNITUDE = 0x7fff;
const MAX_VALUE = 32767;

/** q of FORMAT.md §2 for every difference that there is: how many of the thresholds, which ascend, it reaches. */
function countThresholds(...thresholds: readonly number[]): Uint8Array {
  const counts = new Uint8Array(MAX_VALUE + 1);
  thresholds.forEach((threshold, index) => counts.fill(index + 1, threshold));
  return counts;
}

const QUARTER = countThresholds(20, 60, 140);
const FIFTH = countThresholds(8, 20, 40, 80);
const HALF = countThresholds(24);

/** Groups of one tensor: those listed, or `count` from `first`. */
export interface GroupSelection {
  readonly first: number;
  readonly count: number;
  readonly groups?: Uint32Array;
}

/** Scales by column (FORMAT.md §8.3): what is added to the values of a column. */
export interface ColumnScales {
  /** (cols) */
  readonly byColumn: Int16Array;
}

export interface RankedGroups {
  /** Position of each rank: the largest value first. (count · m) */
  readonly order: Uint8Array;
  /** W of FORMAT.md §7: context of `weights`, 0 to 63. (count) */
  readonly clarity: Uint8Array;
  /** The bucket that `parent+weights` adds to 10 · K, 0 to 9. (count) */
  readonly bucket: Uint8Array;
}

/** Ranks the selected groups of a matrix of bf16 bit patterns (rows · cols). */
export function rankGroups(
  weights: Uint16Array,
  { n, m }: PatternTable,
  selection: GroupSelection,
  scales?: ColumnScales,
): RankedGroups {
  const { first, count, groups } = selection;
  const order = new Uint8Array(count * m);
  const clarity = new Uint8Array(count);
  const bucket = new Uint8Array(count);
  const values = new Int32Array(m + 1);
  const sort = m === 4 ? sortFour : sortInto;
  for (let i = 0; i < count; i++) {
    const from = (groups === undefined ? first + i : groups[i]!) * m;
    for (let j = 0; j < m; j++) values[j] = weights[from + j]! & MAGNITUDE;
    if (scales !== undefined) addScales(values, scales.byColumn, from % scales.byColumn.length, m);
    sort(values, order, i * m, m);
    const contested = values[n - 1]! - values[n]!;
    const above = n > 1 ? values[n - 2]! - values[n - 1]! : 0;
    const below = n + 1 < m ? values[n]! - values[n + 1]! : 0;
    clarity[i] = 16 * QUARTER[contested]! + 4 * QUARTER[above]! + QUARTER[below]!;
    bucket[i] = 2 * FIFTH[contested]! + HALF[Math.min(above, below)]!;
  }
  return { order, clarity, bucket };
}

/** The rank pattern of a symbol in a group whose order starts at `at`. */
export function rankPatternOf(patterns: PatternTable, order: Uint8Array, at: number, symbol: number): number {
  const mask = patterns.masks[symbol]!;
  let ranks = 0;
  for (let rank = 0; rank < patterns.m; rank++) ranks |= ((mask >> order[at + rank]!) & 1) << rank;
  return patterns.symbolOfMask[ranks]!;
}

/** The symbol of a rank pattern. */
export function symbolOfRanks(patterns: PatternTable, order: Uint8Array, at: number, rankPattern: number): number {
  const ranks = patterns.masks[rankPattern]!;
  let mask = 0;
  for (let rank = 0; rank < patterns.m; rank++) mask |= ((ranks >> rank) & 1) << order[at + rank]!;
  return patterns.symbolOfMask[mask]!;
}

function addScales(values: Int32Array, byColumn: Int16Array, column: number, m: number): void {
  for (let i = 0; i < m; i++) values[i] = Math.min(MAX_VALUE, Math.max(0, values[i]! + byColumn[column + i]!));
}

/** Sorts the first m values in place, the largest first, equal ones by position; their positions go to `order` at `at`. */
function sortInto(values: Int32Array, order: Uint8Array, at: number, m: number): void {
  for (let i = 0; i < m; i++) {
    const value = values[i]!;
    let place = i;
    for (; place > 0 && values[place - 1]! < value; place--) {
      values[place] = values[place - 1]!;
      order[at + place] = order[at + place - 1]!;
    }
    values[place] = value;
    order[at + place] = i;
  }
}

/** The same for four, without a branch: the rank of a position is the number of those that come before it. */
function sortFour(values: Int32Array, order: Uint8Array, at: number): void {
  const a = values[0]!;
  const b = values[1]!;
  const c = values[2]!;
  const d = values[3]!;
  // Differences are below 2^16, so that their sign bit says which comes first.
  const ab = (a - b) >>> 31;
  const ac = (a - c) >>> 31;
  const ad = (a - d) >>> 31;
  const bc = (b - c) >>> 31;
  const bd = (b - d) >>> 31;
  const cd = (c - d) >>> 31;
  const rankA = ab + ac + ad;
  const rankB = 1 - ab + bc + bd;
  const rankC = 2 - ac - bc + cd;
  const rankD = 3 - ad - bd - cd;
  values[rankA] = a;
  values[rankB] = b;
  values[rankC] = c;
  values[rankD] = d;
  order[at + rankA] = 0;
  order[at + rankB] = 1;
  order[at + rankC] = 2;
  order[at + rankD] = 3;
}
