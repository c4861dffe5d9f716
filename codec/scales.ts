/** Column scales of `scaled-weights`: FORMAT.md §8.3. Reading, writing, and how the encoder finds them. */
import type { FrequencyTables } from './frequency-table.js';
import type { PatternTable } from './pattern.js';
import type { ColumnScales } from './ranks.js';
import { RansReader, RansWriter } from './rans.js';

const UNIT = 16;
const MIDDLE = 32;
const LARGEST = 63;
/** Rows that a fit looks at: enough for scales that are steps of an eighth of an octave. */
const FIT_ROWS = 512;
/** How far a column with all comparisons lost moves in each pass. */
const FIT_STEPS = [512, 256, 128, 64, 32, 16];
/** Values by which a kept weight leads where its lead is clear. */
const FIT_WIDTH = 48;

/** Symbol of each column → what is added to its values. */
export function scalesOfSymbols(symbols: Uint8Array): ColumnScales {
  return { byColumn: Int16Array.from(symbols, (symbol) => UNIT * (symbol - MIDDLE)) };
}

/** Decodes the chunk of scales of tensors with `cols` columns each; undefined if it does not end with its last symbol. */
export function decodeScales(
  chunk: Uint8Array,
  cols: readonly number[],
  table: FrequencyTables,
): Uint8Array[] | undefined {
  const reader = new RansReader(chunk, 1);
  const scales = cols.map((count) => {
    const symbols = new Uint8Array(count);
    for (let i = 0; i < count; i++) symbols[i] = reader.symbol(0, table, 0);
    return symbols;
  });
  return reader.ended ? scales : undefined;
}

export function encodeScales(scales: readonly Uint8Array[], table: FrequencyTables): Uint8Array {
  const writer = new RansWriter(1);
  for (const symbols of scales) for (const symbol of symbols) writer.symbol(0, table, 0, symbol);
  return writer.finish();
}

/**
 * Scales under which the kept weights of a matrix are its largest, as nearly as gradient steps on all (kept, pruned) pairs find them: a
 * Bradley–Terry fit of the columns' log norms, with straight lines for the sigmoid so that every machine finds the same.
 * Returns a symbol for each column.
 */
export function fitScales(weights: Uint16Array, symbols: Uint8Array, cols: number, patterns: PatternTable): Uint8Array {
  const groupsOfRow = cols / patterns.m;
  const rows = symbols.length / groupsOfRow;
  const rowStep = Math.max(1, Math.floor(rows / FIT_ROWS));
  const pushRow = patterns.n === 2 && patterns.m === 4 ? pushRow24 : pushRowAny;
  const order = keptFirst(patterns);
  const scale = new Float64Array(cols);
  const push = new Float64Array(cols);
  for (const step of FIT_STEPS) {
    push.fill(0);
    let seen = 0;
    for (let row = 0; row < rows; row += rowStep, seen++) {
      const first = row * groupsOfRow;
      const of = {
        weights: weights.subarray(row * cols, (row + 1) * cols),
        symbols: symbols.subarray(first, first + groupsOfRow),
      };
      pushRow(of, order, patterns, scale, push);
    }
    for (let column = 0; column < cols; column++) scale[column] = scale[column]! + (step * push[column]!) / seen;
  }
  return Uint8Array.from(scale, (value) => Math.min(LARGEST, Math.max(0, Math.round(value / UNIT) + MIDDLE)));
}

interface Row {
  /** (cols) */
  readonly weights: Uint16Array;
  /** (cols / m) */
  readonly symbols: Uint8Array;
}

/** Positions of each symbol: those that it keeps, then the others, both ascending. (P, m) */
function keptFirst({ m, positions }: PatternTable): Uint8Array {
  const all = Array.from({ length: m }, (_, position) => position);
  return Uint8Array.from(positions.flatMap((kept) => [...kept, ...all.filter((position) => !kept.includes(position))]));
}

/** How wrong a lead of a kept over a pruned value is, 0 to 1. */
function wrongness(lead: number): number {
  if (lead >= FIT_WIDTH) return 0;
  return lead <= -FIT_WIDTH ? 1 : (1 - lead / FIT_WIDTH) / 2;
}

/** Adds to `push` by column what each pair of a row's groups says: the kept value up, the pruned one down. */
function pushRowAny(
  { weights, symbols }: Row,
  order: Uint8Array,
  { n, m }: PatternTable,
  scale: Float64Array,
  push: Float64Array,
): void {
  for (let i = 0; i < symbols.length; i++) {
    const at = symbols[i]! * m;
    for (let k = at; k < at + n; k++) {
      const kept = i * m + order[k]!;
      const value = (weights[kept]! & 0x7fff) + scale[kept]!;
      for (let p = at + n; p < at + m; p++) {
        const pruned = i * m + order[p]!;
        const wrong = wrongness(value - (weights[pruned]! & 0x7fff) - scale[pruned]!);
        push[kept]! += wrong;
        push[pruned]! -= wrong;
      }
    }
  }
}

/** The same for 2:4, pair by pair in the same order: twice as fast, and most of what encoding a general mask takes. */
function pushRow24(
  { weights, symbols }: Row,
  order: Uint8Array,
  _: PatternTable,
  scale: Float64Array,
  push: Float64Array,
): void {
  for (let i = 0; i < symbols.length; i++) {
    const at = 4 * symbols[i]!;
    const a = 4 * i + order[at]!;
    const b = 4 * i + order[at + 1]!;
    const c = 4 * i + order[at + 2]!;
    const d = 4 * i + order[at + 3]!;
    const keptA = (weights[a]! & 0x7fff) + scale[a]!;
    const keptB = (weights[b]! & 0x7fff) + scale[b]!;
    const prunedC = weights[c]! & 0x7fff;
    const prunedD = weights[d]! & 0x7fff;
    const [scaleC, scaleD] = [scale[c]!, scale[d]!];
    const ac = wrongness(keptA - prunedC - scaleC);
    const ad = wrongness(keptA - prunedD - scaleD);
    const bc = wrongness(keptB - prunedC - scaleC);
    const bd = wrongness(keptB - prunedD - scaleD);
    push[a] = push[a]! + ac + ad;
    push[b] = push[b]! + bc + bd;
    push[c] = push[c]! - ac - bc;
    push[d] = push[d]! - ad - bd;
  }
}
