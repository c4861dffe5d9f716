/** The first 144 bytes of a container: FORMAT.md §3. */
import { crc32c } from './crc32c.js';
import { bytesToDigest, DIGEST_BYTES, digestToBytes } from './digest.js';
import { CodecError } from './errors.js';
import { checkLimit, type LimitName } from './limits.js';
import type { Digest } from './mask-set.js';
import { patternTable, type PatternTable } from './pattern.js';

export const FIXED_HEADER_BYTES = 144;
export const FORMAT_VERSION = 1;
/** Bytes of one entry of the chunk index. */
export const CHUNK_ENTRY_BYTES = 8;

/** A byte that is no ASCII, a name, a DOS line end and an end-of-file: transfers as text break it visibly (after PNG). */
const MAGIC = Uint8Array.of(0x89, 0x4d, 0x41, 0x53, 0x4b, 0x0d, 0x0a, 0x1a);
const FLAG_PARENT = 1;

/** Byte offsets of the fields. */
export const AT = {
  version: 8,
  flags: 10,
  n: 12,
  m: 13,
  chunkLog2: 14,
  reserved8: 15,
  tensorCount: 16,
  tableBytes: 20,
  chunkCount: 24,
  reserved32: 28,
  payloadBytes: 32,
  base: 40,
  content: 72,
  parent: 104,
  tablesChecksum: 136,
  headerChecksum: 140,
} as const;

export interface FixedHeader {
  readonly patterns: PatternTable;
  readonly chunkLog2: number;
  readonly tensorCount: number;
  readonly tableBytes: number;
  readonly chunkCount: number;
  readonly payloadBytes: number;
  readonly base: Digest;
  readonly content: Digest;
  readonly parent: Digest | undefined;
  readonly tablesChecksum: number;
}

/** Bytes before the payload. */
export function headerBytes(header: FixedHeader): number {
  return FIXED_HEADER_BYTES + header.tableBytes + CHUNK_ENTRY_BYTES * header.chunkCount;
}

/**
 * Reads the fixed header from the first bytes of a file of `fileBytes` bytes; `start` holds the first 144, or all of a shorter file.
 * With `expectBase`, a container for other weights is refused before anything else of it is read.
 * Throws CodecError: every code of FORMAT.md §10 up to `trailing-bytes`, in that order.
 */
export function readFixedHeader(start: Uint8Array, fileBytes: number, expectBase?: Digest): FixedHeader {
  checkMagic(start);
  const view = new DataView(start.buffer, start.byteOffset, FIXED_HEADER_BYTES);
  const version = view.getUint16(AT.version, true);
  if (version !== FORMAT_VERSION) {
    throw new CodecError(
      'unsupported-version',
      `expected format version ${FORMAT_VERSION}, got ${version}: upgrade maskserve, or encode the mask set again`,
    );
  }
  checkHeaderChecksum(start, view);
  checkReserved(start, view);
  const header = readFields(start, view);
  checkLimits(header);
  if (expectBase !== undefined && header.base !== expectBase) {
    throw new CodecError(
      'wrong-base',
      `expected a mask set for the base weights ${expectBase}, got one for ${header.base}: load that model, or train the task on this one`,
    );
  }
  checkFileBytes(header, fileBytes);
  return header;
}

/** Writes the fixed header into the first 144 bytes of `out`. Throws CodecError `length-limit` and `bad-digest`. */
export function writeFixedHeader(out: Uint8Array, header: FixedHeader): void {
  checkLimits(header);
  const view = new DataView(out.buffer, out.byteOffset, FIXED_HEADER_BYTES);
  out.set(MAGIC);
  view.setUint16(AT.version, FORMAT_VERSION, true);
  view.setUint16(AT.flags, header.parent === undefined ? 0 : FLAG_PARENT, true);
  out[AT.n] = header.patterns.n;
  out[AT.m] = header.patterns.m;
  out[AT.chunkLog2] = header.chunkLog2;
  out[AT.reserved8] = 0;
  view.setUint32(AT.tensorCount, header.tensorCount, true);
  view.setUint32(AT.tableBytes, header.tableBytes, true);
  view.setUint32(AT.chunkCount, header.chunkCount, true);
  view.setUint32(AT.reserved32, 0, true);
  view.setUint32(AT.payloadBytes, header.payloadBytes % 2 ** 32, true);
  view.setUint32(AT.payloadBytes + 4, Math.floor(header.payloadBytes / 2 ** 32), true);
  out.set(digestToBytes(header.base, 'base'), AT.base);
  out.set(digestToBytes(header.content, 'content'), AT.content);
  out.set(
    header.parent === undefined ? new Uint8Array(DIGEST_BYTES) : digestToBytes(header.parent, 'parent'),
    AT.parent,
  );
  view.setUint32(AT.tablesChecksum, header.tablesChecksum, true);
  view.setUint32(AT.headerChecksum, crc32c(out.subarray(0, AT.headerChecksum)), true);
}

function checkMagic(start: Uint8Array): void {
  if (!MAGIC.every((byte, i) => i >= start.length || byte === start[i])) {
    const got = Array.from(start.subarray(0, MAGIC.length), (byte) => byte.toString(16).padStart(2, '0')).join(' ');
    throw new CodecError(
      'bad-magic',
      `expected a mask container (89 4d 41 53 4b 0d 0a 1a at its start), got ${got}: this file is something else`,
    );
  }
  if (start.length < FIXED_HEADER_BYTES) {
    throw new CodecError(
      'truncated',
      `expected a header of ${FIXED_HEADER_BYTES} bytes, got a file of ${start.length}: it was cut off, fetch it again`,
    );
  }
}

function checkHeaderChecksum(start: Uint8Array, view: DataView): void {
  const computed = crc32c(start.subarray(0, AT.headerChecksum));
  const stored = view.getUint32(AT.headerChecksum, true);
  if (computed !== stored) {
    throw new CodecError(
      'header-checksum',
      `expected a header with the checksum ${hex(stored)}, got ${hex(computed)}: the file is damaged, fetch it again`,
    );
  }
}

function checkReserved(start: Uint8Array, view: DataView): void {
  const flags = view.getUint16(AT.flags, true);
  const parentIsZero = start.subarray(AT.parent, AT.parent + DIGEST_BYTES).every((byte) => byte === 0);
  const problem =
    (flags & ~FLAG_PARENT) !== 0
      ? `flags 0x${flags.toString(16)}`
      : start[AT.reserved8] !== 0 || view.getUint32(AT.reserved32, true) !== 0
        ? 'a reserved byte that is set'
        : !(flags & FLAG_PARENT) && !parentIsZero
          ? 'a parent digest without the parent flag'
          : undefined;
  if (problem !== undefined) {
    throw new CodecError('reserved-bits', `expected all reserved bits of version 1 to be 0, got ${problem}`);
  }
}

function readFields(start: Uint8Array, view: DataView): FixedHeader {
  const digestAt = (at: number): Digest => bytesToDigest(start.subarray(at, at + DIGEST_BYTES));
  const hasParent = (view.getUint16(AT.flags, true) & FLAG_PARENT) !== 0;
  return {
    patterns: patternTable(start[AT.n]!, start[AT.m]!),
    chunkLog2: start[AT.chunkLog2]!,
    tensorCount: view.getUint32(AT.tensorCount, true),
    tableBytes: view.getUint32(AT.tableBytes, true),
    chunkCount: view.getUint32(AT.chunkCount, true),
    // Up to 2^64, rounded; the limit of 2^40 refuses all that are not exact.
    payloadBytes: view.getUint32(AT.payloadBytes, true) + view.getUint32(AT.payloadBytes + 4, true) * 2 ** 32,
    base: digestAt(AT.base),
    content: digestAt(AT.content),
    parent: hasParent ? digestAt(AT.parent) : undefined,
    tablesChecksum: view.getUint32(AT.tablesChecksum, true),
  };
}

function checkLimits(header: FixedHeader): void {
  const fields = [
    'chunkLog2',
    'tensorCount',
    'tableBytes',
    'chunkCount',
    'payloadBytes',
  ] as const satisfies LimitName[];
  for (const field of fields) checkLimit(field, header[field], 'length-limit');
}

function checkFileBytes(header: FixedHeader, fileBytes: number): void {
  const expected = headerBytes(header) + header.payloadBytes;
  if (fileBytes < expected) {
    throw new CodecError('truncated', `expected ${expected} bytes, got ${fileBytes}: it was cut off, fetch it again`);
  }
  if (fileBytes > expected) {
    throw new CodecError(
      'trailing-bytes',
      `expected the file to end after ${expected} bytes, got ${fileBytes - expected} more: fetch it again`,
    );
  }
}

function hex(checksum: number): string {
  return `0x${checksum.toString(16).padStart(8, '0')}`;
}
