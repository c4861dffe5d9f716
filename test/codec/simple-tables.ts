/** The tables of the second decoder: tensors, frequencies, chunk lengths. FORMAT.md §4 to §6. */
import { frequenciesOf, uniformFrequencies, type SimpleTable } from './simple-coders.js';
import type { SimpleTensor } from './simple-container.js';

export interface SimpleEntry {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  readonly groups: number;
  readonly coder: number;
  readonly count: number;
}

/** FORMAT.md §4. */
export function readEntries(
  cursor: Cursor,
  tensorCount: number,
  m: number,
  inherited: readonly SimpleTensor[] | undefined,
): SimpleEntry[] {
  const coders: number[] = [];
  while (coders.length < tensorCount) {
    const coder = cursor.u8();
    for (let run = cursor.varint(); run > 0; run--) coders.push(coder);
  }
  let before = '';
  const shapes = coders.map((_, i) => {
    if (inherited !== undefined) return inherited[i]!;
    const [prefix, suffix, middle] = [cursor.u8(), cursor.u8(), cursor.u8()];
    const name = before.slice(0, prefix) + cursor.text(middle) + before.slice(before.length - suffix);
    before = name;
    return { name, rows: cursor.varint(), cols: cursor.varint() };
  });
  return shapes.map(({ name, rows, cols }, i) => {
    const coder = coders[i]!;
    const count = coder === 8 || coder === 9 ? cursor.varint() : 0;
    return { name, rows, cols, groups: (rows * cols) / m, coder, count };
  });
}

export interface SimpleModel {
  readonly single: SimpleTable;
  readonly tables: readonly SimpleTable[];
}

/** FORMAT.md §5. */
export function readTables(cursor: Cursor, entries: readonly SimpleEntry[], P: number): Map<number, SimpleModel> {
  const lists: readonly [coder: number, tables: number, single: boolean][] = [
    [3, 1, false],
    [4, P, false],
    [5, 64, false],
    [6, 64, true],
    [7, 10 * P, false],
    [8, P, true],
    [9, 10 * P, true],
  ];
  const list = (count: number, symbols: number, excluded: (table: number) => number): SimpleTable[] => {
    const tables: SimpleTable[] = [];
    while (tables.length < count) {
      const first = cursor.u8();
      if (first !== 254) tables.push(frequenciesOf([first, ...Array.from({ length: symbols - 1 }, () => cursor.u8())]));
      else
        for (let left = cursor.u8(); left >= 0; left--)
          tables.push(uniformFrequencies(symbols, excluded(tables.length)));
    }
    return tables;
  };
  const models = new Map<number, SimpleModel>([[2, { single: [], tables: [uniformFrequencies(P)] }]]);
  for (const [coder, count, hasSingle] of lists) {
    if (!entries.some((entry) => entry.coder === coder)) continue;
    const single = hasSingle ? list(1, 64, () => -1)[0]! : [];
    const excluded = (table: number): number => (coder === 8 ? table : coder === 9 ? Math.floor(table / 10) : -1);
    models.set(coder, { single, tables: list(count, P, excluded) });
  }
  return models;
}

export type ChunkReader = (() => Buffer) & { read: number };

/** FORMAT.md §6. */
export function chunkReader(index: Cursor, bytes: Buffer, payload: number): ChunkReader {
  let at = payload;
  const next = (): Buffer => {
    const length = index.varint();
    index.skip(4);
    at += length;
    reader.read++;
    return bytes.subarray(at - length, at);
  };
  const reader: ChunkReader = Object.assign(next, { read: 0 });
  return reader;
}

/** FORMAT.md §1. */
export class Cursor {
  constructor(
    private readonly bytes: Buffer,
    private at: number,
  ) {}

  u8(): number {
    return this.bytes.readUInt8(this.at++);
  }

  varint(): number {
    const byte = this.u8();
    return byte < 128 ? byte : byte - 128 + 128 * this.varint();
  }

  text(length: number): string {
    this.at += length;
    return this.bytes.toString('latin1', this.at - length, this.at);
  }

  skip(length: number): void {
    this.at += length;
  }
}
