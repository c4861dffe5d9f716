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
  const { m, masks } = patterns;
  const groupsOfRow = cols / m;
  const rows = symbols.length / groupsOfRow;
  const rowStep = Math.max(1, Math.floor(rows / FIT_ROWS));
  const scale = new Float64Array(cols);
  const push = new Float64Array(cols);
  for (const step of FIT_STEPS) {
    push.fill(0);
    let seen = 0;
    for (let row = 0; row < rows; row += rowStep, seen++) {
      for (let i = 0; i < groupsOfRow; i++) {
        const group = row * groupsOfRow + i;
        pushGroup(weights, group * m, masks[symbols[group]!]!, m, scale, push, i * m);
      }
    }
    for (let column = 0; column < cols; column++) scale[column] = scale[column]! + (step * push[column]!) / seen;
  }
  return Uint8Array.from(scale, (value) => Math.min(LARGEST, Math.max(0, Math.round(value / UNIT) + MIDDLE)));
}

function pushGroup(
  weights: Uint16Array,
  from: number,
  mask: number,
  m: number,
  scale: Float64Array,
  push: Float64Array,
  column: number,
): void {
  for (let kept = 0; kept < m; kept++) {
    if (!((mask >> kept) & 1)) continue;
    const value = (weights[from + kept]! & 0x7fff) + scale[column + kept]!;
    for (let pruned = 0; pruned < m; pruned++) {
      if ((mask >> pruned) & 1) continue;
      const lead = value - (weights[from + pruned]! & 0x7fff) - scale[column + pruned]!;
      if (lead >= FIT_WIDTH) continue;
      const wrong = lead <= -FIT_WIDTH ? 1 : (1 - lead / FIT_WIDTH) / 2;
      push[column + kept]! += wrong;
      push[column + pruned]! -= wrong;
    }
  }
}
