/**
 * A second decoder, written from codec/FORMAT.md alone and as plainly as it allows: a symbol or a bit at a time, sharing no
 * code with codec/. For valid containers only; it checks little and allocates freely.
 */
import { createHash } from 'node:crypto';
import {
  frequenciesOf,
  groupModel,
  patternsOf,
  SimpleRans,
  uniformFrequencies,
  type SimpleSources,
  type SimpleTable,
} from './simple-coders.js';

export interface SimpleTensor {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  readonly symbols: number[];
}

export interface SimpleContainer {
  readonly n: number;
  readonly m: number;
  readonly base: string;
  readonly content: string;
  readonly parent: string | undefined;
  readonly tensors: SimpleTensor[];
}

/** What a container may need besides its bytes. */
export interface SimpleContext {
  readonly parent?: SimpleContainer;
  readonly weights?: (name: string) => Uint16Array | undefined;
}

export function simpleDecode(file: Uint8Array, context: SimpleContext = {}): SimpleContainer {
  const bytes = Buffer.from(file);
  return bytes.readUInt16LE(8) === 1 ? decodeVersion1(bytes) : decodeVersion2(bytes, context);
}

interface SimpleEntry {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  readonly groups: number;
  readonly coder: number;
  readonly count: number;
}

/** FORMAT.md §3 to §7. */
function decodeVersion2(bytes: Buffer, context: SimpleContext): SimpleContainer {
  const [n, m, chunkLog2, patchLog2] = [...bytes.subarray(12, 16)] as [number, number, number, number];
  const [tensorCount, tableBytes, modelBytes, indexBytes, chunkCount] = [16, 20, 24, 28, 32].map((at) =>
    bytes.readUInt32LE(at),
  ) as [number, number, number, number, number];
  const [models, index, payload] = [
    160 + tableBytes,
    160 + tableBytes + modelBytes,
    160 + tableBytes + modelBytes + indexBytes,
  ];
  const inherited = bytes[10]! & 2 ? byName(context.parent!.tensors) : undefined;
  const entries = readEntries(new Cursor(bytes, 160), tensorCount, m, inherited);
  const tables = readTables(new Cursor(bytes, models), entries, patternsOf(n, m).length);
  const nextChunk = chunkReader(new Cursor(bytes, index), bytes, payload);
  const tensors = entries.map(({ name, rows, cols, groups, coder }) => ({
    name,
    rows,
    cols,
    symbols: coder >= 8 && coder <= 9 ? [...parentOf(context, name)!.symbols] : new Array<number>(groups).fill(-1),
  }));
  const sources = entries.map(({ name }): SimpleSources => {
    const [parent, weights] = [parentOf(context, name)?.symbols, context.weights?.(name)];
    return { n, m, ...(parent === undefined ? {} : { parent }), ...(weights === undefined ? {} : { weights }) };
  });
  readScales(entries, tables, sources, nextChunk);
  decodeDense(entries, tables, sources, tensors, chunkLog2, nextChunk);
  decodePatches(entries, tables, sources, tensors, patchLog2, nextChunk);
  entries.forEach(({ coder, groups }, t) => {
    for (let first = 0; coder === 1 && first < groups; first += 2 ** chunkLog2) {
      const count = Math.min(2 ** chunkLog2, groups - first);
      decodeChunk(nextChunk(), patternsOf(n, m).length, count).forEach((s, i) => (tensors[t]!.symbols[first + i] = s));
    }
    if (coder !== 10) return;
    for (let group = 0; group < groups; group++)
      tensors[t]!.symbols[group] = groupModel(10, group, sources[t]!).symbolOf(0);
  });
  if (nextChunk.read !== chunkCount) throw new Error(`read ${nextChunk.read} of ${chunkCount} chunks`);
  const digest = (at: number): string => bytes.toString('hex', at, at + 32);
  const parent = bytes[10]! & 1 ? digest(120) : undefined;
  // A set that inherits is shown in its parent's order.
  const shown =
    inherited === undefined
      ? tensors
      : context.parent!.tensors.map(({ name }) => tensors.find((one) => one.name === name)!);
  return { n, m, base: digest(56), content: digest(88), parent, tensors: shown };
}

/** FORMAT.md §4. */
function readEntries(
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

interface SimpleModel {
  readonly single: SimpleTable;
  readonly tables: readonly SimpleTable[];
}

/** FORMAT.md §5. */
function readTables(cursor: Cursor, entries: readonly SimpleEntry[], P: number): Map<number, SimpleModel> {
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

type ChunkReader = (() => Buffer) & { read: number };

/** FORMAT.md §6. */
function chunkReader(index: Cursor, bytes: Buffer, payload: number): ChunkReader {
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

/** FORMAT.md §8.3. */
function readScales(
  entries: readonly SimpleEntry[],
  models: ReadonlyMap<number, SimpleModel>,
  sources: SimpleSources[],
  nextChunk: ChunkReader,
): void {
  if (!entries.some(({ coder }) => coder === 6)) return;
  const rans = new SimpleRans(nextChunk(), 1);
  entries.forEach(({ coder, cols }, t) => {
    if (coder !== 6) return;
    const scales = Array.from({ length: cols }, () => 16 * (rans.symbol(0, models.get(6)!.single) - 32));
    sources[t] = { ...sources[t]!, scales };
  });
  mustEnd(rans);
}

/** FORMAT.md §8.2. */
function decodeDense(
  entries: readonly SimpleEntry[],
  models: ReadonlyMap<number, SimpleModel>,
  sources: readonly SimpleSources[],
  tensors: readonly SimpleTensor[],
  chunkLog2: number,
  nextChunk: ChunkReader,
): void {
  const steps: { t: number; groups: number[] }[] = [];
  entries.forEach(({ coder, groups }, t) => {
    if (coder < 2 || coder > 7) return;
    for (let first = 0; first < groups; first += 32) {
      steps.push({ t, groups: Array.from({ length: Math.min(32, groups - first) }, (_, i) => first + i) });
    }
  });
  for (let step = 0; step < steps.length; step += 2 ** chunkLog2 / 32) {
    const chunk = steps.slice(step, step + 2 ** chunkLog2 / 32);
    const lanes = chunk.length >= 128 ? 32 : 1;
    const rans = new SimpleRans(nextChunk(), lanes);
    for (const { t, groups } of chunk) {
      const { coder } = entries[t]!;
      const order =
        lanes === 1 ? groups.map((_, i) => i) : Array.from({ length: 32 }, (_, j) => 2 * (j % 16) + Math.floor(j / 16));
      order.forEach((place, lane) => {
        const group = groups[place];
        if (group === undefined) return;
        const { context, symbolOf } = groupModel(coder, group, sources[t]!);
        tensors[t]!.symbols[group] = symbolOf(rans.symbol(lanes === 1 ? 0 : lane, models.get(coder)!.tables[context]!));
      });
    }
    mustEnd(rans);
  }
}

/** FORMAT.md §9. */
function decodePatches(
  entries: readonly SimpleEntry[],
  models: ReadonlyMap<number, SimpleModel>,
  sources: readonly SimpleSources[],
  tensors: readonly SimpleTensor[],
  patchLog2: number,
  nextChunk: ChunkReader,
): void {
  const changed = [...entries.keys()].filter((t) => entries[t]!.count > 0);
  while (changed.length > 0) {
    const chunk: number[] = [];
    for (let changes = 0; changes < 2 ** patchLog2 && changed.length > 0;) {
      changes += entries[changed[0]!]!.count;
      chunk.push(changed.shift()!);
    }
    const rans = new SimpleRans(nextChunk(), 1);
    const positions = chunk.map((t) => {
      const { groups, count, coder } = entries[t]!;
      const h = Math.max(0, Math.floor(Math.log2(Math.floor(groups / count))) - 3);
      let last = -1;
      return Array.from({ length: count }, () => {
        let hi = 0;
        for (let s = 63; s === 63; hi += s) s = rans.symbol(0, models.get(coder)!.single);
        return (last += 1 + hi * 2 ** h + rans.raw(h));
      });
    });
    chunk.forEach((t, i) => {
      const { coder } = entries[t]!;
      for (const group of positions[i]!) {
        const { context, symbolOf } = groupModel(coder, group, sources[t]!);
        tensors[t]!.symbols[group] = symbolOf(rans.symbol(0, models.get(coder)!.tables[context]!));
      }
    });
    mustEnd(rans);
  }
}

function mustEnd(rans: SimpleRans): void {
  if (!rans.ended) throw new Error('the chunk does not end with its last symbol');
}

function parentOf({ parent }: SimpleContext, name: string): SimpleTensor | undefined {
  return parent?.tensors.find((tensor) => tensor.name === name);
}

function byName(tensors: readonly SimpleTensor[]): SimpleTensor[] {
  return [...tensors].sort((a, b) => Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)));
}

/** FORMAT.md §1. */
class Cursor {
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

/** FORMAT.md §14. */
function decodeVersion1(bytes: Buffer): SimpleContainer {
  const [n, m, chunkSymbols] = [bytes[12]!, bytes[13]!, 2 ** bytes[14]!];
  const [tensorCount, tableBytes, chunkCount] = [16, 20, 24].map((at) => bytes.readUInt32LE(at)) as [
    number,
    number,
    number,
  ];
  const patterns = n === 1 ? 4 : n === 2 ? 6 : 70;
  let entry = 144;
  let index = 144 + tableBytes;
  let payload = index + 8 * chunkCount;
  const tensors: SimpleTensor[] = [];
  for (let t = 0; t < tensorCount; t++) {
    const [nameBytes, rows, cols] = [bytes[entry]!, bytes.readUInt32LE(entry + 4), bytes.readUInt32LE(entry + 8)];
    const name = bytes.toString('latin1', entry + 16, entry + 16 + nameBytes);
    const symbols: number[] = [];
    const groups = (rows * cols) / m;
    while (symbols.length < groups) {
      const length = bytes.readUInt32LE(index);
      const count = Math.min(chunkSymbols, groups - symbols.length);
      symbols.push(...decodeChunk(bytes.subarray(payload, payload + length), patterns, count));
      index += 8;
      payload += length;
    }
    tensors.push({ name, rows, cols, symbols });
    entry += 16 + nameBytes + bytes.readUInt16LE(entry + 2);
  }
  return {
    n,
    m,
    base: bytes.toString('hex', 40, 72),
    content: bytes.toString('hex', 72, 104),
    parent: bytes[10]! & 1 ? bytes.toString('hex', 104, 136) : undefined,
    tensors,
  };
}

/** FORMAT.md §10. */
export function simpleContentDigest({ n, m, base, tensors }: Omit<SimpleContainer, 'content' | 'parent'>): string {
  const byName = tensors.map((tensor) => [Buffer.from(tensor.name), tensorDigest(tensor, n)] as const);
  byName.sort(([a], [b]) => Buffer.compare(a, b));
  return sha256(
    Buffer.from('maskserve content 1\n'),
    Buffer.from(base, 'hex'),
    Buffer.from([n, m]),
    u32(tensors.length),
    ...byName.map(([, digest]) => digest),
  ).toString('hex');
}

function tensorDigest({ name, rows, cols, symbols }: SimpleTensor, n: number): Buffer {
  const codes = n === 2 ? nibbles(symbols) : Buffer.from(symbols);
  return sha256(Buffer.from([name.length]), Buffer.from(name), u32(rows), u32(cols), codes);
}

/** FORMAT.md §2. */
function nibbles(symbols: readonly number[]): Buffer {
  const code = [4, 8, 12, 9, 13, 14];
  const packed = Buffer.alloc(Math.ceil(symbols.length / 2));
  symbols.forEach((symbol, i) => (packed[i >> 1]! += code[symbol]! * (i % 2 === 0 ? 1 : 16)));
  return packed;
}

/** FORMAT.md §8.4. */
function decodeChunk(chunk: Uint8Array, patterns: number, count: number): number[] {
  const [P, quarter, half, full] = [BigInt(patterns), 1n << 29n, 1n << 30n, 1n << 31n];
  let position = 0;
  const nextBit = (): bigint => {
    const byte = chunk[position >> 3] ?? 0;
    return BigInt((byte >> (7 - (position++ & 7))) & 1);
  };
  let [low, high, code] = [0n, full - 1n, 0n];
  for (let i = 0; i < 31; i++) code = 2n * code + nextBit();
  const symbols: number[] = [];
  for (let i = 0; i < count; i++) {
    const range = high - low + 1n;
    const s = ((code - low + 1n) * P - 1n) / range;
    symbols.push(Number(s));
    high = low + (range * (s + 1n)) / P - 1n;
    low = low + (range * s) / P;
    for (;;) {
      const shift =
        high < half ? 0n : low >= half ? half : low >= quarter && high < half + quarter ? quarter : undefined;
      if (shift === undefined) break;
      low = 2n * (low - shift);
      high = 2n * (high - shift) + 1n;
      code = 2n * (code - shift) + nextBit();
    }
  }
  return symbols;
}

function sha256(...parts: Buffer[]): Buffer {
  return createHash('sha256').update(Buffer.concat(parts)).digest();
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
