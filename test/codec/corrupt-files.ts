/**
 * Every way a file can be wrong, made on purpose: [error code, defect, bytes]. `make-fixtures` writes them to
 * test/fixtures/corrupt/CODE/DEFECT.mask. They all come from one small valid container with two tensors of two and one chunks.
 */
import { encodeMaskSet } from '../../codec/encode.js';
import type { CodecErrorCode } from '../../codec/errors.js';
import {
  FIXED_HEADER,
  seal,
  sealChunks,
  setIndex,
  setPayload,
  setTable,
  setU32,
  takeApart,
  u32,
  type ContainerParts,
} from './container-parts.js';
import { OTHER_BASE, randomSet } from './random-sets.js';

export type CorruptFile = readonly [code: CodecErrorCode, defect: string, bytes: Uint8Array];

/** 64 · 288 / 4 = 4608 groups in two chunks, 16 · 24 / 4 = 96 in one. */
const SET = randomSet(900, [2, 4], { 'q_proj.weight': [64, 288], 'k_proj.weight': [16, 24] }, 'fa'.repeat(32));
export const VALID = encodeMaskSet(SET, { chunkLog2: 12 });
/** The entry of q_proj begins the table; that of k_proj follows. */
const SECOND_ENTRY = 16 + 'q_proj.weight'.length;

export function corruptFiles(): CorruptFile[] {
  return [
    ...otherFiles(),
    ...flippedBits(),
    ...headerFields(),
    ...cutOrExtended(),
    ...tableEntries(),
    ...chunkIndex(),
    ...payloads(),
  ];
}

function otherFiles(): CorruptFile[] {
  const text = (content: string): Uint8Array => new TextEncoder().encode(content);
  return [
    [
      'bad-magic',
      'safetensors',
      text('\x40\0\0\0\0\0\0\0{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  \0\0\0\0'),
    ],
    ['bad-magic', 'html-error-page', text(`<!doctype html>${'<p>404 not found</p>'.repeat(20)}`)],
    ['bad-magic', 'short-text', text('hi\n')],
    ['bad-magic', 'line-ends-converted', VALID.filter((byte, i) => !(byte === 0x0d && VALID[i + 1] === 0x0a))],
    ['bad-magic', 'utf8-converted', text(Buffer.from(VALID).toString('latin1'))],
    ['wrong-base', 'for-another-base', encodeMaskSet({ ...SET, base: OTHER_BASE })],
  ];
}

/** One bit in each field, everything else as it was. */
function flippedBits(): CorruptFile[] {
  const index = FIXED_HEADER + u32(VALID, 20);
  const payload = index + 8 * u32(VALID, 24);
  const flips: [CodecErrorCode, string, number][] = [
    ['bad-magic', 'magic', 3],
    ['unsupported-version', 'version', 8],
    ['header-checksum', 'flags', 10],
    ['header-checksum', 'n', 12],
    ['header-checksum', 'm', 13],
    ['header-checksum', 'chunk-log2', 14],
    ['header-checksum', 'reserved-byte', 15],
    ['header-checksum', 'tensor-count', 16],
    ['header-checksum', 'table-bytes', 20],
    ['header-checksum', 'chunk-count', 24],
    ['header-checksum', 'reserved-word', 28],
    ['header-checksum', 'payload-bytes', 32],
    ['header-checksum', 'base-digest', 40],
    ['header-checksum', 'content-digest', 103],
    ['header-checksum', 'parent-digest', 104],
    ['header-checksum', 'tables-checksum', 136],
    ['header-checksum', 'header-checksum', 143],
    ['table-checksum', 'name-length', FIXED_HEADER],
    ['table-checksum', 'coder', FIXED_HEADER + 1],
    ['table-checksum', 'rows', FIXED_HEADER + 4],
    ['table-checksum', 'cols', FIXED_HEADER + 8],
    ['table-checksum', 'chunks', FIXED_HEADER + 12],
    ['table-checksum', 'name', FIXED_HEADER + 16],
    ['table-checksum', 'chunk-length', index],
    ['table-checksum', 'chunk-checksum', index + 4],
    ['chunk-checksum', 'first-byte-of-first-chunk', payload],
    ['chunk-checksum', 'last-byte-of-last-chunk', VALID.length - 1],
  ];
  return flips.map(([code, where, at]) => {
    const bytes = VALID.slice();
    bytes[at]! ^= 1 << (at % 8);
    return [code, `flipped-bit-in-${where}`, bytes];
  });
}

/** Wrong values under right checksums: what only a writer can do. */
function headerFields(): CorruptFile[] {
  const field = (code: CodecErrorCode, defect: string, change: (header: Uint8Array) => void): CorruptFile =>
    changed(code, defect, ({ header }) => change(header));
  return [
    field('unsupported-version', 'version-0', (header) => (header[8] = 0)),
    field('unsupported-version', 'version-2', (header) => (header[8] = 2)),
    field('unsupported-version', 'version-65535', (header) => header.fill(255, 8, 10)),
    field('reserved-bits', 'flag-bit-1', (header) => (header[10]! |= 2)),
    field('reserved-bits', 'flag-bit-15', (header) => (header[11]! |= 128)),
    field('reserved-bits', 'reserved-byte-15', (header) => (header[15] = 1)),
    field('reserved-bits', 'reserved-word-28', (header) => (header[31] = 1)),
    field('reserved-bits', 'parent-without-flag', (header) => (header[10] = 0)),
    field('unsupported-pattern', 'pattern-0-of-0', (header) => header.fill(0, 12, 14)),
    field('unsupported-pattern', 'pattern-2-of-8', (header) => (header[13] = 8)),
    field('unsupported-pattern', 'pattern-3-of-4', (header) => (header[12] = 3)),
    field('unsupported-pattern', 'pattern-255-of-255', (header) => header.fill(255, 12, 14)),
    field('length-limit', 'chunk-log2-11', (header) => (header[14] = 11)),
    field('length-limit', 'chunk-log2-21', (header) => (header[14] = 21)),
    field('length-limit', 'chunk-log2-255', (header) => (header[14] = 255)),
    field('length-limit', 'no-tensors', (header) => setU32(header, 16, 0)),
    field('length-limit', 'absurd-tensor-count', (header) => header.fill(255, 16, 20)),
    field('length-limit', 'absurd-table-bytes', (header) => header.fill(255, 20, 24)),
    field('truncated', 'table-longer-than-file', (header) => setU32(header, 20, 8_388_608)),
    field('trailing-bytes', 'no-chunks', (header) => setU32(header, 24, 0)),
    field('length-limit', 'absurd-chunk-count', (header) => header.fill(255, 24, 28)),
    field('truncated', 'index-longer-than-file', (header) => setU32(header, 24, 1_048_576)),
    field('trailing-bytes', 'no-payload', (header) => setU32(header, 32, 0)),
    field('length-limit', 'absurd-payload-bytes', (header) => header.fill(255, 32, 40)),
    field('length-limit', 'payload-bytes-that-wrap-32-bits', (header) => setU32(header, 36, 0x10000)),
    field('truncated', 'payload-longer-than-file', (header) => setU32(header, 36, 1)),
    field('table-length', 'tensor-count-too-small', (header) => setU32(header, 16, 1)),
    field('table-length', 'tensor-count-too-large', (header) => setU32(header, 16, 3)),
    field('content-mismatch', 'content-digest-of-another-set', (header) => header.fill(0x11, 72, 104)),
  ];
}

function cutOrExtended(): CorruptFile[] {
  const index = FIXED_HEADER + u32(VALID, 20);
  const payload = index + 8 * u32(VALID, 24);
  const cuts: [string, number][] = [
    ['empty', 0],
    ['in-magic', 5],
    ['at-end-of-magic', 8],
    ['in-fixed-header', 100],
    ['before-end-of-fixed-header', FIXED_HEADER - 1],
    ['at-end-of-fixed-header', FIXED_HEADER],
    ['in-tensor-table', FIXED_HEADER + 20],
    ['at-end-of-tensor-table', index],
    ['in-chunk-index', index + 12],
    ['at-end-of-chunk-index', payload],
    ['in-first-chunk', payload + 100],
    ['at-end-of-first-chunk', payload + u32(VALID, index)],
    ['before-last-byte', VALID.length - 1],
  ];
  return [
    ...cuts.map(([where, length]): CorruptFile => ['truncated', `cut-${where}`, VALID.slice(0, length)]),
    ['trailing-bytes', 'one-zero-byte-more', Uint8Array.of(...VALID, 0)],
    ['trailing-bytes', 'two-containers', Uint8Array.of(...VALID, ...VALID)],
  ];
}

function tableEntries(): CorruptFile[] {
  const entry = (code: CodecErrorCode, defect: string, change: (table: Uint8Array) => void): CorruptFile =>
    changed(code, defect, ({ table }) => change(table));
  return [
    entry('table-length', 'name-over-the-end', (table) => (table[SECOND_ENTRY] = 200)),
    changed('table-length', 'bytes-after-the-last-entry', (parts) => {
      setTable(parts, Uint8Array.of(...parts.table, 0));
    }),
    changed('table-length', 'last-entry-cut', (parts) => {
      setTable(parts, parts.table.slice(0, SECOND_ENTRY + 10));
    }),
    entry('bad-name', 'empty-name', (table) => (table[0] = 0)),
    entry('bad-name', 'line-end-in-name', (table) => (table[16] = 10)),
    entry('bad-name', 'space-in-name', (table) => (table[16] = 32)),
    entry('bad-name', 'zero-byte-in-name', (table) => (table[20] = 0)),
    entry('bad-name', 'byte-above-ascii-in-name', (table) => (table[16] = 0xe9)),
    entry('duplicate-tensor', 'same-name-twice', (table) => (table[SECOND_ENTRY + 16] = 'q'.charCodeAt(0))),
    entry('unknown-coder', 'coder-0', (table) => (table[1] = 0)),
    entry('unknown-coder', 'coder-2', (table) => (table[SECOND_ENTRY + 1] = 2)),
    entry('unknown-coder', 'coder-255', (table) => (table[1] = 255)),
    changed('coder-data', 'one-byte-of-coder-data', (parts) => {
      setTable(parts, Uint8Array.of(...parts.table, 7));
      parts.table[SECOND_ENTRY + 2] = 1;
    }),
    entry('bad-shape', 'no-rows', (table) => setU32(table, 4, 0)),
    entry('bad-shape', 'no-cols', (table) => setU32(table, 8, 0)),
    entry('bad-shape', 'absurd-rows', (table) => table.fill(255, 4, 8)),
    entry('bad-shape', 'absurd-cols', (table) => setU32(table, 8, 0xfffffffc)),
    entry('bad-shape', 'cols-not-a-multiple-of-4', (table) => setU32(table, 8, 290)),
    entry('bad-shape', 'absurd-groups', (table) => {
      setU32(table, 4, 2 ** 24);
      setU32(table, 8, 2 ** 24);
    }),
    entry('bad-shape', 'groups-that-wrap-32-bits', (table) => {
      setU32(table, 4, 2 ** 17);
      setU32(table, 8, 2 ** 17);
    }),
    entry('chunk-count', 'one-chunk-too-few', (table) => setU32(table, 12, 1)),
    entry('chunk-count', 'one-chunk-too-many', (table) => setU32(table, SECOND_ENTRY + 12, 2)),
    entry('chunk-count', 'absurd-chunks', (table) => table.fill(255, 12, 16)),
    entry('chunk-count', 'more-rows-than-chunks', (table) => setU32(table, 4, 2 ** 20)),
    changed('chunk-count', 'no-chunks-and-no-payload', (parts) => {
      setIndex(parts, new Uint8Array(0));
      setPayload(parts, new Uint8Array(0));
    }),
    changed('chunk-count', 'chunk-of-no-tensor', (parts) => {
      setIndex(parts, Uint8Array.of(...parts.index, 1, 0, 0, 0, 0, 0, 0, 0));
      setPayload(parts, Uint8Array.of(...parts.payload, 0x80));
    }),
    entry('content-mismatch', 'another-name', (table) => (table[16] = 'v'.charCodeAt(0))),
    entry('content-mismatch', 'rows-and-cols-swapped', (table) => {
      setU32(table, 4, 288);
      setU32(table, 8, 64);
    }),
  ];
}

function chunkIndex(): CorruptFile[] {
  return [
    changed('chunk-length', 'empty-chunk', ({ index }) => setU32(index, 16, 0)),
    changed('chunk-length', 'absurd-chunk-length', ({ index }) => index.fill(255, 0, 4)),
    changed('chunk-length', 'overlong-chunk', (parts) => {
      setU32(parts.index, 16, u32(parts.index, 16) + 4);
      setPayload(parts, Uint8Array.of(...parts.payload, 0, 0, 0, 0));
      sealChunks(parts);
    }),
    changed('chunk-length', 'short-chunk', ({ index }) => {
      setU32(index, 0, u32(index, 0) - 20);
      setU32(index, 8, u32(index, 8) + 20);
    }),
    ['chunk-length', 'long-mask-in-a-short-file', longMask()],
    changed('payload-length', 'chunks-one-byte-too-short', ({ index }) => setU32(index, 0, u32(index, 0) - 1)),
    changed('payload-length', 'chunks-one-byte-too-long', ({ index }) => setU32(index, 16, u32(index, 16) + 1)),
    changed('chunk-checksum', 'checksums-swapped', ({ index }) => {
      const first = index.slice(4, 8);
      index.copyWithin(4, 12, 16);
      index.set(first, 12);
    }),
    changed('chunk-checksum', 'border-of-chunks-moved', ({ index }) => {
      setU32(index, 0, u32(index, 0) - 1);
      setU32(index, 8, u32(index, 8) + 1);
    }),
  ];
}

/** Chunks with right checksums that no encoder writes, or not for this set. */
function payloads(): CorruptFile[] {
  const firstEnd = u32(takeApart(VALID).index, 0);
  return [
    resealed('symbol-overrun', 'no-end-mark', ({ payload }) => (payload[firstEnd - 1] = 0)),
    resealed('symbol-overrun', 'all-zero-chunk', ({ payload }) => payload.fill(0, 0, firstEnd)),
    resealed('symbol-overrun', 'zero-byte-after-the-end', (parts) => {
      setU32(parts.index, 16, u32(parts.index, 16) + 1);
      setPayload(parts, Uint8Array.of(...parts.payload, 0));
    }),
    resealed('symbol-overrun', 'symbols-of-one-row-missing', ({ table }) => setU32(table, SECOND_ENTRY + 4, 15)),
    // Symbols that only leave bits pending add no bytes to a chunk (FORMAT.md §7.1).
    changed('content-mismatch', 'symbols-of-one-row-more', ({ table }) => setU32(table, SECOND_ENTRY + 4, 17)),
    ['content-mismatch', 'one-symbol-changed', oneSymbolChanged()],
    changed('content-mismatch', 'names-of-tensors-swapped', ({ table }) => {
      table[16] = 'k'.charCodeAt(0);
      table[SECOND_ENTRY + 16] = 'q'.charCodeAt(0);
    }),
  ];
}

/** One bit of payload for 2^30 symbols: a reader that believed the shape would allocate a gigabyte for 9 KB. */
function longMask(): Uint8Array {
  const parts = takeApart(encodeMaskSet(randomSet(1, [2, 4], { w: [1, 4] }), { chunkLog2: 20 }));
  setU32(parts.table, 4, 2 ** 24);
  setU32(parts.table, 8, 256);
  setU32(parts.table, 12, 1024);
  setIndex(
    parts,
    new Uint8Array(8 * 1024).map((_, i) => (i % 8 === 0 ? 1 : 0)),
  );
  setPayload(parts, new Uint8Array(1024).fill(0x80));
  sealChunks(parts);
  return seal(parts);
}

/** Another set under the content digest of this one. */
function oneSymbolChanged(): Uint8Array {
  const [first, second] = [SET.masks[0]!, SET.masks[1]!];
  const symbols = second.symbols.slice();
  symbols[50] = (symbols[50]! + 1) % 6;
  const other = takeApart(encodeMaskSet({ ...SET, masks: [first, { ...second, symbols }] }, { chunkLog2: 12 }));
  other.header.set(VALID.subarray(72, 104), 72);
  return seal(other);
}

function changed(code: CodecErrorCode, defect: string, change: (parts: ContainerParts) => void): CorruptFile {
  const parts = takeApart(VALID);
  change(parts);
  return [code, defect, seal(parts)];
}

function resealed(code: CodecErrorCode, defect: string, change: (parts: ContainerParts) => void): CorruptFile {
  return changed(code, defect, (parts) => {
    change(parts);
    sealChunks(parts);
  });
}
