/** The first bytes of a container, of either version: FORMAT.md §3 and §14. Everything after the version differs. */
import { crc32c } from './crc32c.js';
import { bytesToDigest, DIGEST_BYTES, digestToBytes } from './digest.js';
import { CodecError } from './errors.js';
import { checkLimit } from './limits.js';
import type { Digest } from './mask-set.js';
import { patternTable, type PatternTable } from './pattern.js';

/** What writers write. */
export const FORMAT_VERSION = 2;
/** Bytes of an entry of version 1's chunk index. */
export const VERSION_1_INDEX_ENTRY = 8;

/** A byte that is no ASCII, a name, a DOS line end and an end-of-file: transfers as text break it visibly (after PNG). */
const MAGIC = Uint8Array.of(0x89, 0x4d, 0x41, 0x53, 0x4b, 0x0d, 0x0a, 0x1a);
const VERSION_AT = 8;
const FLAGS_AT = 10;
const FLAG_PARENT = 1;
const FLAG_INHERITS = 2;

/** Where a version has what: byte offsets. Both end with the checksums of tables and header. */
const LAYOUTS = {
  1: {
    bytes: 144,
    flags: FLAG_PARENT,
    reserved: [
      [15, 1],
      [28, 4],
    ],
    chunkCount: 24,
    payloadBytes: 32,
    base: 40,
  },
  2: {
    bytes: 160,
    flags: FLAG_PARENT | FLAG_INHERITS,
    reserved: [[36, 4]],
    chunkCount: 32,
    payloadBytes: 40,
    base: 56,
  },
} as const;

/** More than any version has: what to read first. */
export const MAX_HEADER_BYTES = LAYOUTS[2].bytes;

export interface FixedHeader {
  readonly version: 1 | 2;
  readonly patterns: PatternTable;
  readonly chunkLog2: number;
  /** Version 1 has no patches: its least value. */
  readonly patchLog2: number;
  readonly tensorCount: number;
  readonly tableBytes: number;
  readonly modelBytes: number;
  readonly indexBytes: number;
  readonly chunkCount: number;
  readonly payloadBytes: number;
  /** Of all tensors; undefined in version 1. */
  readonly groups: number | undefined;
  readonly base: Digest;
  readonly content: Digest;
  readonly parent: Digest | undefined;
  /** The tensors are the parent's. */
  readonly inherits: boolean;
  readonly tablesChecksum: number;
}

/** Bytes of the fixed header alone. */
export function fixedHeaderBytes({ version }: Pick<FixedHeader, 'version'>): number {
  return LAYOUTS[version].bytes;
}

/** Bytes before the payload. */
export function headerBytes(header: Pick<FixedHeader, 'version' | 'tableBytes' | 'modelBytes' | 'indexBytes'>): number {
  return fixedHeaderBytes(header) + header.tableBytes + header.modelBytes + header.indexBytes;
}

/** Bytes of the whole file. */
export function containerBytes(header: FixedHeader): number {
  return headerBytes(header) + header.payloadBytes;
}

/**
 * Reads the fixed header from the first bytes of a file of `fileBytes` bytes (undefined: not known yet, and not compared); `start` holds the
 * first 160, or all of a shorter file.
 * With `expectBase`, a container for other weights is refused before anything else of it is read.
 * Throws CodecError: every code of FORMAT.md §12 up to `trailing-bytes`, in that order.
 */
export function readFixedHeader(start: Uint8Array, fileBytes: number | undefined, expectBase?: Digest): FixedHeader {
  const version = readVersion(start);
  const layout = LAYOUTS[version];
  if (start.length < layout.bytes) throw truncatedHeader(layout.bytes, start.length);
  const fixed = start.subarray(0, layout.bytes);
  const view = new DataView(fixed.buffer, fixed.byteOffset, fixed.length);
  checkHeaderChecksum(fixed, view);
  checkReserved(fixed, view, version);
  const header = readFields(fixed, view, version);
  checkLimits(header);
  if (expectBase !== undefined && header.base !== expectBase) {
    throw new CodecError(
      'wrong-base',
      `expected a mask set for the base weights ${expectBase}, got one for ${header.base}: load that model, or train the task on this one`,
    );
  }
  if (fileBytes !== undefined) checkFileBytes(header, fileBytes);
  return header;
}

/** Writes a fixed header of version 2 into the first 160 bytes of `out`. Throws CodecError `length-limit` and `bad-digest`. */
export function writeFixedHeader(out: Uint8Array, header: FixedHeader): void {
  checkLimits(header);
  const { bytes, base } = LAYOUTS[FORMAT_VERSION];
  const view = new DataView(out.buffer, out.byteOffset, bytes);
  out.set(MAGIC);
  view.setUint16(VERSION_AT, FORMAT_VERSION, true);
  const flags = (header.parent === undefined ? 0 : FLAG_PARENT) | (header.inherits ? FLAG_INHERITS : 0);
  view.setUint16(FLAGS_AT, flags, true);
  out.set([header.patterns.n, header.patterns.m, header.chunkLog2, header.patchLog2], 12);
  [header.tensorCount, header.tableBytes, header.modelBytes, header.indexBytes, header.chunkCount, 0].forEach(
    (value, i) => view.setUint32(16 + 4 * i, value, true),
  );
  setU64(view, 40, header.payloadBytes);
  setU64(view, 48, header.groups ?? 0);
  out.set(digestToBytes(header.base, 'base'), base);
  out.set(digestToBytes(header.content, 'content'), base + DIGEST_BYTES);
  if (header.parent !== undefined) out.set(digestToBytes(header.parent, 'parent'), base + 2 * DIGEST_BYTES);
  view.setUint32(bytes - 8, header.tablesChecksum, true);
  view.setUint32(bytes - 4, crc32c(out.subarray(0, bytes - 4)), true);
}

function readVersion(start: Uint8Array): 1 | 2 {
  if (!MAGIC.every((byte, i) => i >= start.length || byte === start[i])) {
    const got = Array.from(start.subarray(0, MAGIC.length), (byte) => byte.toString(16).padStart(2, '0')).join(' ');
    throw new CodecError(
      'bad-magic',
      `expected a mask container (89 4d 41 53 4b 0d 0a 1a at its start), got ${got}: this file is something else`,
    );
  }
  if (start.length < FLAGS_AT) throw truncatedHeader(LAYOUTS[FORMAT_VERSION].bytes, start.length);
  const version = start[VERSION_AT]! | (start[VERSION_AT + 1]! << 8);
  if (version === 1 || version === 2) return version;
  throw new CodecError(
    'unsupported-version',
    `expected format version 1 or ${FORMAT_VERSION}, got ${version}: upgrade maskserve, or encode the mask set again`,
  );
}

function truncatedHeader(expected: number, got: number): CodecError {
  return new CodecError(
    'truncated',
    `expected a header of ${expected} bytes, got a file of ${got}: it was cut off, fetch it again`,
  );
}

function checkHeaderChecksum(fixed: Uint8Array, view: DataView): void {
  const computed = crc32c(fixed.subarray(0, fixed.length - 4));
  const stored = view.getUint32(fixed.length - 4, true);
  if (computed !== stored) {
    throw new CodecError(
      'header-checksum',
      `expected a header with the checksum ${hex(stored)}, got ${hex(computed)}: the file is damaged, fetch it again`,
    );
  }
}

function checkReserved(fixed: Uint8Array, view: DataView, version: 1 | 2): void {
  const { flags: known, reserved, base } = LAYOUTS[version];
  const flags = view.getUint16(FLAGS_AT, true);
  const isSet = (at: number, length: number): boolean => fixed.subarray(at, at + length).some((byte) => byte !== 0);
  const problem =
    (flags & ~known) !== 0 || flags === FLAG_INHERITS
      ? `flags 0x${flags.toString(16)}`
      : reserved.some(([at, length]) => isSet(at, length))
        ? 'a reserved byte that is set'
        : !(flags & FLAG_PARENT) && isSet(base + 2 * DIGEST_BYTES, DIGEST_BYTES)
          ? 'a parent digest without the parent flag'
          : undefined;
  if (problem !== undefined) {
    throw new CodecError('reserved-bits', `expected all reserved bits of version ${version} to be 0, got ${problem}`);
  }
}

function readFields(fixed: Uint8Array, view: DataView, version: 1 | 2): FixedHeader {
  const { base, chunkCount, payloadBytes } = LAYOUTS[version];
  const digest = (i: number): Digest =>
    bytesToDigest(fixed.subarray(base + i * DIGEST_BYTES, base + (i + 1) * DIGEST_BYTES));
  const flags = view.getUint16(FLAGS_AT, true);
  const chunks = view.getUint32(chunkCount, true);
  return {
    version,
    patterns: patternTable(fixed[12]!, fixed[13]!),
    chunkLog2: fixed[14]!,
    patchLog2: version === 1 ? 8 : fixed[15]!,
    tensorCount: view.getUint32(16, true),
    tableBytes: view.getUint32(20, true),
    modelBytes: version === 1 ? 0 : view.getUint32(24, true),
    indexBytes: version === 1 ? VERSION_1_INDEX_ENTRY * chunks : view.getUint32(28, true),
    chunkCount: chunks,
    payloadBytes: getU64(view, payloadBytes),
    groups: version === 1 ? undefined : getU64(view, 48),
    base: digest(0),
    content: digest(1),
    parent: (flags & FLAG_PARENT) === 0 ? undefined : digest(2),
    inherits: (flags & FLAG_INHERITS) !== 0,
    tablesChecksum: view.getUint32(fixed.length - 8, true),
  };
}

function checkLimits(header: FixedHeader): void {
  checkLimit('tensorCount', header.tensorCount, 'length-limit');
  checkLimit('tableBytes', header.tableBytes, 'length-limit');
  checkLimit('modelBytes', header.modelBytes, 'length-limit');
  checkLimit('chunkCount', header.chunkCount, 'length-limit');
  checkLimit('indexBytes', header.indexBytes, 'length-limit');
  checkLimit('payloadBytes', header.payloadBytes, 'length-limit');
  if (header.groups !== undefined) checkLimit('setGroups', header.groups, 'length-limit', 'groups');
  checkLimit('chunkLog2', header.chunkLog2, 'length-limit');
  checkLimit('patchLog2', header.patchLog2, 'length-limit');
}

/** Throws CodecError `truncated`, `trailing-bytes`. */
export function checkFileBytes(header: FixedHeader, fileBytes: number): void {
  const expected = containerBytes(header);
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

/** Up to 2^64, rounded; the limits refuse all that are not exact. */
function getU64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}

function setU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

function hex(checksum: number): string {
  return `0x${checksum.toString(16).padStart(8, '0')}`;
}
