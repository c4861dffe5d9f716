/** Frequency tables of the rANS coder and the bytes that stand for them: FORMAT.md §5. */
import { CodecError } from './errors.js';
import type { SectionReader, SectionWriter } from './varint.js';

export const PROBABILITY_BITS = 14;
/** What the frequencies of a table add up to. */
export const TOTAL = 1 << PROBABILITY_BITS;

/** Code of the one symbol that has what the others leave. */
const REST = 255;
const LEFT_OUT = 254;
const LARGEST_CODE = 175;
const MAX_RUN = 256;

/** Frequency of each code: exact up to 31, then sixteen steps an octave. */
const FREQUENCY_OF_CODE = Uint16Array.from({ length: LARGEST_CODE + 1 }, (_, code) =>
  code < 16 ? code : (16 + (code % 16)) * 2 ** ((code >> 4) - 1),
);

/** What a list of tables must be. */
export interface TableList {
  /** For sentences. */
  readonly name: string;
  readonly count: number;
  /** Symbols of each table. */
  readonly symbols: number;
  /** The symbol that can't occur in a table; undefined if all can. */
  readonly excluded?: (table: number) => number;
}

/** Tables of one list, by context. */
export interface FrequencyTables {
  readonly list: TableList;
  /** Boundaries of table t: symbol s has [cum[t · (symbols + 1) + s], cum[… + s + 1]). (count · (symbols + 1)) */
  readonly cum: Uint16Array;
}

/** The tables of coders that write none into the container: every symbol that can occur is as likely as any other. */
export function uniformTables(list: TableList): FrequencyTables {
  const cum = new Uint16Array(list.count * (list.symbols + 1));
  for (let table = 0; table < list.count; table++) fillUniform(list, table, cum);
  return { list, cum };
}

/** Reads a list. Throws CodecError `model-table`. */
export function readTables(reader: SectionReader, list: TableList): FrequencyTables {
  const tables = uniformTables(list);
  for (let table = 0; table < list.count; table++) {
    const first = reader.u8();
    if (first === LEFT_OUT) {
      table += reader.u8();
      if (table >= list.count) throw badTable(list, table, `a list of ${list.count}`, 'more that are left out');
      continue;
    }
    const codes = new Uint8Array(list.symbols);
    codes[0] = first;
    codes.set(reader.take(list.symbols - 1), 1);
    fillFromCodes(codes, list, table, tables.cum);
  }
  return tables;
}

/**
 * Writes the list that fits a histogram (count · symbols) and returns its tables. A table is left out where it would cost more than it
 * saves over the uniform one.
 */
export function writeTables(writer: SectionWriter, list: TableList, histogram: Float64Array): FrequencyTables {
  const tables = uniformTables(list);
  let leftOut = 0;
  const flush = (): void => {
    for (; leftOut > 0; leftOut -= Math.min(leftOut, MAX_RUN)) writer.put([LEFT_OUT, Math.min(leftOut, MAX_RUN) - 1]);
  };
  for (let table = 0; table < list.count; table++) {
    const counts = histogram.subarray(table * list.symbols, (table + 1) * list.symbols);
    const codes = fitCodes(counts);
    if (codes === undefined || !paysForItself(codes, counts, list, table, tables.cum)) {
      leftOut++;
      continue;
    }
    flush();
    writer.put(codes);
    fillFromCodes(codes, list, table, tables.cum);
  }
  flush();
  return tables;
}

/** Bits that the tables take to code a histogram (count · symbols); Infinity if they can't. */
export function costInBits({ list, cum }: FrequencyTables, histogram: Float64Array): number {
  let bits = 0;
  for (let table = 0; table < list.count; table++) {
    bits += tableCost(cum, table * (list.symbols + 1), histogram, table * list.symbols, list.symbols);
  }
  return bits;
}

function tableCost(cum: Uint16Array, at: number, histogram: Float64Array, from: number, symbols: number): number {
  let bits = 0;
  for (let s = 0; s < symbols; s++) {
    const count = histogram[from + s]!;
    if (count > 0) bits += count * (PROBABILITY_BITS - Math.log2(cum[at + s + 1]! - cum[at + s]!));
  }
  return bits;
}

/** Codes near the histogram's shares, every symbol that occurs at 1 or more; undefined for an empty one. */
function fitCodes(counts: Float64Array): Uint8Array | undefined {
  const sum = counts.reduce((total, count) => total + count, 0);
  if (sum === 0) return undefined;
  const largest = counts.indexOf(counts.reduce((most, count) => Math.max(most, count), 0));
  for (const round of [nearestCode, codeBelow]) {
    const codes = Uint8Array.from(counts, (count, s) =>
      s === largest ? REST : count === 0 ? 0 : Math.max(1, round((count * TOTAL) / sum)),
    );
    const others = codes.reduce((total, code) => total + (code === REST ? 0 : FREQUENCY_OF_CODE[code]!), 0);
    if (others < TOTAL) return codes;
  }
  return undefined;
}

/** The largest code whose frequency is at most `frequency`. */
function codeBelow(frequency: number): number {
  const code = FREQUENCY_OF_CODE.findIndex((candidate) => candidate > frequency);
  return code < 0 ? LARGEST_CODE : code - 1;
}

function nearestCode(frequency: number): number {
  const code = codeBelow(frequency);
  const above = FREQUENCY_OF_CODE[code + 1] ?? Infinity;
  return above - frequency < frequency - FREQUENCY_OF_CODE[code]! ? code + 1 : code;
}

function paysForItself(
  codes: Uint8Array,
  counts: Float64Array,
  list: TableList,
  table: number,
  uniform: Uint16Array,
): boolean {
  const fitted = new Uint16Array(list.symbols + 1);
  fillFromCodes(codes, { ...list, count: 1, excluded: () => list.excluded?.(table) ?? -1 }, 0, fitted);
  const saved =
    tableCost(uniform, table * (list.symbols + 1), counts, 0, list.symbols) -
    tableCost(fitted, 0, counts, 0, list.symbols);
  return saved > 8 * list.symbols;
}

function fillFromCodes(codes: Uint8Array, list: TableList, table: number, cum: Uint16Array): void {
  let others = 0;
  let rests = 0;
  for (const code of codes) {
    if (code === REST) rests++;
    else if (code > LARGEST_CODE) throw badTable(list, table, `codes 0 to ${LARGEST_CODE} or ${REST}`, `${code}`);
    else others += FREQUENCY_OF_CODE[code]!;
  }
  if (rests !== 1) throw badTable(list, table, `one code ${REST}`, `${rests}`);
  if (others >= TOTAL) throw badTable(list, table, `frequencies below ${TOTAL} together`, `${others}`);
  const excluded = list.excluded?.(table) ?? -1;
  if (excluded >= 0 && codes[excluded] !== 0) {
    throw badTable(list, table, `the code 0 for the parent's pattern ${excluded}`, `${codes[excluded]}`);
  }
  let at = table * (list.symbols + 1);
  let sum = 0;
  cum[at] = 0;
  for (const code of codes) cum[++at] = sum += code === REST ? TOTAL - others : FREQUENCY_OF_CODE[code]!;
}

function fillUniform(list: TableList, table: number, cum: Uint16Array): void {
  const excluded = list.excluded?.(table) ?? -1;
  const symbols = list.symbols - (excluded < 0 ? 0 : 1);
  const at = table * (list.symbols + 1);
  for (let s = 0, i = 0; s < list.symbols; s++) {
    if (s !== excluded) i++;
    cum[at + s + 1] = Math.floor((TOTAL * i) / symbols);
  }
}

function badTable(list: TableList, table: number, expected: string, got: string): CodecError {
  return new CodecError('model-table', `expected ${expected} in table ${table} of ${list.name}, got ${got}`);
}
