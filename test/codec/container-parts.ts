/** Takes a container apart at the offsets of FORMAT.md and puts changed parts together with valid checksums. For tests only. */
import { crc32c } from '../../codec/crc32c.js';

export const FIXED_HEADER = 160;

/** Offsets of header fields, version 2. */
export const AT = {
  version: 8,
  flags: 10,
  tensorCount: 16,
  tableBytes: 20,
  modelBytes: 24,
  indexBytes: 28,
  chunkCount: 32,
  payloadBytes: 40,
  groups: 48,
  base: 56,
  content: 88,
  parent: 120,
  tablesChecksum: 152,
  headerChecksum: 156,
} as const;

export interface ContainerParts {
  /** 160 bytes */
  header: Uint8Array;
  table: Uint8Array;
  models: Uint8Array;
  index: Uint8Array;
  payload: Uint8Array;
}

/** An entry of the chunk index, and where its chunk lies in the payload. */
export interface IndexEntry {
  bytes: number;
  checksum: number;
}

/** Copies of the parts of a container of version 2; of bytes that are none, whatever lies where they should. */
export function takeApart(container: Uint8Array): ContainerParts {
  const bytes = Uint8Array.from(container);
  const ends = [FIXED_HEADER];
  for (const at of [AT.tableBytes, AT.modelBytes, AT.indexBytes]) ends.push(ends.at(-1)! + u32(bytes, at));
  const [table, models, index, payload] = ends as [number, number, number, number];
  return {
    header: bytes.slice(0, FIXED_HEADER),
    table: bytes.slice(table, models),
    models: bytes.slice(models, index),
    index: bytes.slice(index, payload),
    payload: bytes.slice(payload),
  };
}

/** The parts in a row, as they are. */
export function join({ header, table, models, index, payload }: ContainerParts): Uint8Array {
  return new Uint8Array(Buffer.concat([header, table, models, index, payload]));
}

/** The parts in a row, with the two checksums of the header made right. */
export function seal(parts: ContainerParts): Uint8Array {
  const tables = crc32c(parts.index, crc32c(parts.models, crc32c(parts.table)));
  setU32(parts.header, AT.tablesChecksum, tables);
  setU32(parts.header, AT.headerChecksum, crc32c(parts.header.subarray(0, AT.headerChecksum)));
  return join(parts);
}

/** Another tensor table, and its length in the header. */
export function setTable(parts: ContainerParts, table: Uint8Array): void {
  parts.table = table;
  setU32(parts.header, AT.tableBytes, table.length);
}

/** Other models, and their length in the header. */
export function setModels(parts: ContainerParts, models: Uint8Array): void {
  parts.models = models;
  setU32(parts.header, AT.modelBytes, models.length);
}

/** Another chunk index, its length and number of entries in the header. */
export function setIndex(parts: ContainerParts, entries: readonly IndexEntry[]): void {
  parts.index = Uint8Array.from(
    entries.flatMap(({ bytes, checksum }) => [
      ...varint(bytes),
      ...[0, 8, 16, 24].map((at) => (checksum >>> at) & 255),
    ]),
  );
  setU32(parts.header, AT.indexBytes, parts.index.length);
  setU32(parts.header, AT.chunkCount, entries.length);
}

/** Another payload, and its length in the header. */
export function setPayload(parts: ContainerParts, payload: Uint8Array): void {
  parts.payload = payload;
  setU32(parts.header, AT.payloadBytes, payload.length);
}

/** The entries of a chunk index, as far as it goes. */
export function indexEntries({ index }: ContainerParts): IndexEntry[] {
  const entries: IndexEntry[] = [];
  for (let at = 0; at < index.length;) {
    let bytes = 0;
    let shift = 1;
    while (at < index.length && index[at]! >= 128) {
      bytes += (index[at++]! - 128) * shift;
      shift *= 128;
    }
    bytes += (index[at++] ?? 0) * shift;
    if (at + 4 > index.length) break;
    entries.push({ bytes, checksum: u32(index, at) });
    at += 4;
  }
  return entries;
}

/** Makes the checksums of all chunks right; lengths are taken from the index. */
export function sealChunks(parts: ContainerParts): void {
  let at = 0;
  const entries = indexEntries(parts).map(({ bytes }) => {
    at += bytes;
    return { bytes, checksum: crc32c(parts.payload.subarray(at - bytes, at)) };
  });
  setIndex(parts, entries);
}

export function varint(value: number): number[] {
  return value < 128 ? [value] : [(value % 128) + 128, ...varint(Math.floor(value / 128))];
}

export function u32(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(at, true);
}

export function setU32(bytes: Uint8Array, at: number, value: number): void {
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(at, value, true);
}
