/** Writes ZIP archives (PKWARE APPNOTE 6.3): deflated entries, ZIP64 where offsets or counts need it. The same entries give the same bytes. */
import { gzipSync } from 'node:zlib';

export interface ZipContent {
  readonly name: string;
  /** Fewer than 4 GiB. */
  readonly bytes: Uint8Array;
}

/** What the directory says of an entry that was written. */
export interface Written {
  readonly name: string;
  readonly offset: number;
  /** Version to twelve bytes of checksum and lengths: what both headers of an entry share. */
  readonly shared: Buffer;
}

const GZIP_HEADER_BYTES = 10;
const GZIP_TRAILER_BYTES = 8;
const VERSION = 20;
const VERSION_ZIP64 = 45;
const UTF8_NAMES = 0x0800;
const DEFLATED = 8;
/** 1 January 1980, the first day that the format knows: no clock in the bytes. */
const DATE = 0x0021;
const LARGEST_32 = 0xffffffff;
const LARGEST_16 = 0xffff;

/** The archive's bytes, an entry at a time, so that only one has to be in memory. */
export function* zipArchive(contents: Iterable<ZipContent>): Generator<Uint8Array, void, undefined> {
  const entries: Written[] = [];
  let offset = 0;
  for (const { name, bytes } of contents) {
    const { stream, crc32 } = deflate(bytes);
    const entry = { name, offset, shared: sharedFields(crc32, stream.length, bytes.length) };
    const header = localHeader(entry);
    yield header;
    yield stream;
    entries.push(entry);
    offset += header.length + stream.length;
  }
  yield zipDirectory(entries, offset);
}

/** The directory of an archive and its end, which lie at `offset`, behind the entries. */
export function zipDirectory(entries: readonly Written[], offset: number): Buffer {
  const directory = Buffer.concat(entries.map(centralHeader));
  return Buffer.concat([directory, endOfDirectory(entries.length, directory.length, offset)]);
}

/** A gzip member holds the deflate stream and the checksum that ZIP wants too, in other frames. */
function deflate(bytes: Uint8Array): { stream: Buffer; crc32: number } {
  const member = gzipSync(bytes);
  const end = member.length - GZIP_TRAILER_BYTES;
  return { stream: member.subarray(GZIP_HEADER_BYTES, end), crc32: member.readUInt32LE(end) };
}

function sharedFields(crc32: number, compressed: number, bytes: number): Buffer {
  return Buffer.concat([numbers16(VERSION, UTF8_NAMES, DEFLATED, 0, DATE), numbers32(crc32, compressed, bytes)]);
}

function localHeader({ name, shared }: Written): Buffer {
  return Buffer.concat([numbers32(0x04034b50), shared, numbers16(Buffer.byteLength(name), 0), Buffer.from(name)]);
}

function centralHeader({ name, offset, shared }: Written): Buffer {
  const wide = offset >= LARGEST_32;
  const extra = wide ? Buffer.concat([numbers16(1, 8), numbers64(offset)]) : Buffer.alloc(0);
  return Buffer.concat([
    numbers32(0x02014b50),
    numbers16(wide ? VERSION_ZIP64 : VERSION),
    shared,
    numbers16(Buffer.byteLength(name), extra.length, 0, 0, 0),
    numbers32(0, wide ? LARGEST_32 : offset),
    Buffer.from(name),
    extra,
  ]);
}

function endOfDirectory(count: number, bytes: number, offset: number): Buffer {
  const fits = count < LARGEST_16 && offset < LARGEST_32 && bytes < LARGEST_32;
  const end64 = [
    numbers32(0x06064b50),
    numbers64(44), // what follows of this record
    numbers16(VERSION_ZIP64, VERSION_ZIP64),
    numbers32(0, 0),
    numbers64(count, count, bytes, offset),
    numbers32(0x07064b50, 0), // its locator
    numbers64(offset + bytes),
    numbers32(1),
  ];
  const count16 = Math.min(count, LARGEST_16);
  return Buffer.concat([
    ...(fits ? [] : end64),
    numbers32(0x06054b50),
    numbers16(0, 0, count16, count16),
    numbers32(Math.min(bytes, LARGEST_32), Math.min(offset, LARGEST_32)),
    numbers16(0),
  ]);
}

function numbers16(...values: number[]): Buffer {
  const bytes = Buffer.alloc(2 * values.length);
  values.forEach((value, i) => bytes.writeUInt16LE(value, 2 * i));
  return bytes;
}

function numbers32(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, i) => bytes.writeUInt32LE(value, 4 * i));
  return bytes;
}

function numbers64(...values: number[]): Buffer {
  const bytes = Buffer.alloc(8 * values.length);
  values.forEach((value, i) => bytes.writeBigUInt64LE(BigInt(value), 8 * i));
  return bytes;
}
