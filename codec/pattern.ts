/**
 * N:M patterns: which n of every m consecutive weights are kept. Numbered in lexicographic order of the ascending lists of
 * kept positions (FORMAT.md §2), which for 2:4 is MaskLLM's order: 1100 1010 1001 0110 0101 0011.
 */
import { CodecError } from './errors.js';

/** The n:m that the format knows. Kernels run 2:4. */
const SUPPORTED: readonly (readonly [n: number, m: number])[] = [
  [1, 4],
  [2, 4],
  [4, 8],
];

/** One n:m and its patterns, all indexed by symbol. */
export interface PatternTable {
  readonly n: number;
  readonly m: number;
  /** P: how many patterns there are. */
  readonly count: number;
  /** Kept positions of each symbol, ascending. */
  readonly positions: readonly (readonly number[])[];
  /** Bit i of a mask is set where position i is kept. */
  readonly masks: Uint8Array;
  /** Symbol of a bit mask, NO_SYMBOL where the mask is no pattern. (2^m) */
  readonly symbolOfMask: Uint8Array;
}

/** Marks "no such pattern" in lookup tables. */
export const NO_SYMBOL = 255;

const tables = SUPPORTED.map(([n, m]) => makeTable(n, m));

/** The patterns of n:m. Throws CodecError `unsupported-pattern` for an n:m that the format does not know. */
export function patternTable(n: number, m: number): PatternTable {
  const table = tables.find((candidate) => candidate.n === n && candidate.m === m);
  if (table === undefined) {
    const known = SUPPORTED.map((pair) => pair.join(':')).join(', ');
    throw new CodecError('unsupported-pattern', `expected n:m to be one of ${known}, got ${n}:${m}`);
  }
  return table;
}

/** Canonical nibble idx0 | idx1 << 2 of each 2:4 symbol: what `compress24` and `mma.sp` read. */
export const NIBBLE_OF_SYMBOL = Uint8Array.from(
  patternTable(2, 4).positions,
  (kept) => kept[0]! | (kept[1]! << 2), // 4, 8, 12, 9, 13, 14
);

/** And back; NO_SYMBOL where a nibble is no pattern. */
export const SYMBOL_OF_NIBBLE = invert(NIBBLE_OF_SYMBOL, 16);

/** Byte of two groups: [s0 << 3 | s1], s0 the earlier. 64 entries, so that a masked index needs no bounds check. */
const BYTE_OF_PAIR = Uint8Array.from({ length: 64 }, (_, pair) => {
  const [first, second] = [pair >> 3, pair & 7];
  return first < 6 && second < 6 ? NIBBLE_OF_SYMBOL[first]! | (NIBBLE_OF_SYMBOL[second]! << 4) : 0;
});

/** Bytes that the canonical codes of `groups` groups take: half a byte a group for 2:4, else one (FORMAT.md §2). */
export function canonicalBytes(table: PatternTable, groups: number): number {
  return table.m === 4 && table.n === 2 ? Math.ceil(groups / 2) : groups;
}

/**
 * Packs 2:4 symbols into canonical nibbles, two groups a byte, the earlier group in the low nibble: the `meta` of
 * `compress24`. Returns `into`, of which ⌈symbols.length / 2⌉ bytes are written; an odd last high nibble is 0.
 * Throws CodecError `bad-symbol` if a symbol is above 5.
 */
export function symbolsToNibbles(
  symbols: Uint8Array,
  into: Uint8Array = new Uint8Array(Math.ceil(symbols.length / 2)),
): Uint8Array {
  const pairs = symbols.length >> 1;
  checkSymbols(symbols, 6);
  for (let i = 0; i < pairs; i++) into[i] = BYTE_OF_PAIR[(symbols[2 * i]! << 3) | symbols[2 * i + 1]!]!;
  if (symbols.length & 1) into[pairs] = NIBBLE_OF_SYMBOL[symbols[2 * pairs]!]!;
  return into;
}

/**
 * Unpacks canonical nibbles of `groups` groups into 2:4 symbols. Throws CodecError `bad-symbol` on a nibble that is no pattern, on
 * another number of bytes than ⌈groups / 2⌉, and if the last high nibble of an odd number of groups is not 0.
 */
export function nibblesToSymbols(nibbles: Uint8Array, groups: number = nibbles.length * 2): Uint8Array {
  if (nibbles.length !== Math.ceil(groups / 2)) {
    throw new CodecError(
      'bad-symbol',
      `expected ${Math.ceil(groups / 2)} bytes of nibbles for ${groups} groups, got ${nibbles.length}`,
    );
  }
  const symbols = new Uint8Array(groups);
  let worst = 0;
  for (let i = 0; i < groups; i++) {
    const symbol = SYMBOL_OF_NIBBLE[(nibbles[i >> 1]! >> ((i & 1) << 2)) & 15]!;
    symbols[i] = symbol;
    worst |= symbol;
  }
  if (worst > 7) throwBadNibble(nibbles, symbols);
  if (groups & 1 && nibbles[groups >> 1]! > 15) {
    throw new CodecError('bad-symbol', `expected the nibble after the last of ${groups} groups to be 0`);
  }
  return symbols;
}

/** Throws CodecError `bad-symbol` if a symbol is not less than `count`, and names the first; `where` says whose. */
export function checkSymbols(symbols: Uint8Array, count: number, where = ''): void {
  let largest = 0;
  for (let i = 0; i < symbols.length; i++) largest = Math.max(largest, symbols[i]!);
  if (largest < count) return;
  const at = symbols.findIndex((symbol) => symbol >= count);
  throw new CodecError('bad-symbol', `expected symbols 0 to ${count - 1}, got ${symbols[at]} in group ${at}${where}`);
}

function throwBadNibble(nibbles: Uint8Array, symbols: Uint8Array): never {
  const at = symbols.indexOf(NO_SYMBOL);
  const nibble = (nibbles[at >> 1]! >> ((at & 1) << 2)) & 15;
  throw new CodecError(
    'bad-symbol',
    `expected a 2:4 nibble (4, 8, 12, 9, 13 or 14), got ${nibble} in group ${at}: two kept positions, ascending`,
  );
}

function makeTable(n: number, m: number): PatternTable {
  const positions = combinations(n, m, 0);
  const masks = Uint8Array.from(positions, (kept) => kept.reduce((mask, position) => mask | (1 << position), 0));
  return { n, m, count: positions.length, positions, masks, symbolOfMask: invert(masks, 1 << m) };
}

/** Ascending lists of n positions in [from, m), in lexicographic order. */
function combinations(n: number, m: number, from: number): number[][] {
  if (n === 0) return [[]];
  const lists: number[][] = [];
  for (let first = from; first <= m - n; first++) {
    for (const rest of combinations(n - 1, m, first + 1)) lists.push([first, ...rest]);
  }
  return lists;
}

function invert(values: Uint8Array, size: number): Uint8Array {
  const symbols = new Uint8Array(size).fill(NO_SYMBOL);
  values.forEach((value, symbol) => (symbols[value] = symbol));
  return symbols;
}
