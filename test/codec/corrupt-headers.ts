/** Corrupt files: no containers at all, one bit flipped, a header field that is wrong, cut or extended. */
import { encodeMaskSet } from '../../codec/encode.js';
import type { CodecErrorCode } from '../../codec/errors.js';
import { AT, FIXED_HEADER, setU32 } from './container-parts.js';
import { changed, DENSE, offsets, SET, TABLE, VALID, type CorruptFile } from './corrupt-origins.js';
import { OTHER_BASE } from './random-sets.js';

export function otherFiles(): CorruptFile[] {
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
export function flippedBits(): CorruptFile[] {
  const { table, models: modelSection, index } = offsets(DENSE);
  const flips: [CodecErrorCode, string, number][] = [
    ['bad-magic', 'magic', 3],
    ['unsupported-version', 'version', AT.version],
    ['header-checksum', 'flags', AT.flags],
    ['header-checksum', 'n', 12],
    ['header-checksum', 'm', 13],
    ['header-checksum', 'chunk-log2', 14],
    ['header-checksum', 'patch-log2', 15],
    ...Object.entries(AT)
      .filter(([, at]) => at >= 16)
      .map(([name, at]): [CodecErrorCode, string, number] => [
        'header-checksum',
        name.replace(/[A-Z]/, '-$&').toLowerCase(),
        at,
      ]),
    ['header-checksum', 'reserved-word', 36],
    ['table-checksum', 'coder', table],
    ['table-checksum', 'run', table + 1],
    ['table-checksum', 'model', modelSection],
    ['table-checksum', 'chunk-length', index],
    ['table-checksum', 'chunk-checksum', index + 3],
    ['chunk-checksum', 'first-byte-of-first-chunk', offsets(DENSE).payload],
    ['chunk-checksum', 'last-byte-of-last-chunk', DENSE.length - 1],
  ];
  return flips.map(([code, where, at]) => {
    const bytes = DENSE.slice();
    bytes[at]! ^= 1 << (at % 8);
    return [code, `flipped-bit-in-${where}`, bytes];
  });
}

/** Wrong values under right checksums: what only a writer can do. */
export function headerFields(): CorruptFile[] {
  const field = (code: CodecErrorCode, defect: string, change: (header: Uint8Array) => void): CorruptFile =>
    changed(code, defect, ({ header }) => change(header));
  const word = (code: CodecErrorCode, defect: string, at: number, value: number): CorruptFile =>
    field(code, defect, (header) => setU32(header, at, value));
  return [
    field('unsupported-version', 'version-0', (header) => (header[AT.version] = 0)),
    field('unsupported-version', 'version-3', (header) => (header[AT.version] = 3)),
    field('unsupported-version', 'version-65535', (header) => header.fill(255, 8, 10)),
    field('reserved-bits', 'flag-bit-2', (header) => (header[AT.flags]! |= 4)),
    field('reserved-bits', 'flag-bit-15', (header) => (header[AT.flags + 1]! |= 128)),
    field('reserved-bits', 'inherits-without-parent', (header) => header.fill(0, AT.parent, 152).fill(2, 10, 11)),
    field('reserved-bits', 'reserved-word-36', (header) => (header[39] = 1)),
    field('reserved-bits', 'parent-without-flag', (header) => (header[AT.flags] = 0)),
    changed('reserved-bits', 'coded-against-no-parent', ({ header, table }) => {
      header.fill(0, AT.parent, AT.tablesChecksum).fill(0, AT.flags, AT.flags + 2);
      table[TABLE.coder] = 4;
    }),
    field('unsupported-pattern', 'pattern-0-of-0', (header) => header.fill(0, 12, 14)),
    field('unsupported-pattern', 'pattern-2-of-8', (header) => (header[13] = 8)),
    field('unsupported-pattern', 'pattern-3-of-4', (header) => (header[12] = 3)),
    field('unsupported-pattern', 'pattern-255-of-255', (header) => header.fill(255, 12, 14)),
    field('length-limit', 'chunk-log2-11', (header) => (header[14] = 11)),
    field('length-limit', 'chunk-log2-21', (header) => (header[14] = 21)),
    field('length-limit', 'patch-log2-7', (header) => (header[15] = 7)),
    field('length-limit', 'patch-log2-25', (header) => (header[15] = 25)),
    word('length-limit', 'no-tensors', AT.tensorCount, 0),
    word('length-limit', 'absurd-tensor-count', AT.tensorCount, 2 ** 32 - 1),
    word('length-limit', 'absurd-table-bytes', AT.tableBytes, 2 ** 32 - 1),
    word('length-limit', 'absurd-model-bytes', AT.modelBytes, 2 ** 32 - 1),
    word('length-limit', 'absurd-index-bytes', AT.indexBytes, 2 ** 32 - 1),
    word('length-limit', 'absurd-chunk-count', AT.chunkCount, 2 ** 32 - 1),
    field('length-limit', 'absurd-payload-bytes', (header) => header.fill(255, 40, 48)),
    word('length-limit', 'payload-bytes-that-wrap-32-bits', AT.payloadBytes + 4, 0x10000),
    field('length-limit', 'no-groups', (header) => header.fill(0, 48, 56)),
    field('length-limit', 'absurd-groups-of-the-set', (header) => header.fill(255, 48, 56)),
    word('truncated', 'table-longer-than-file', AT.tableBytes, 8_388_608),
    word('truncated', 'models-longer-than-file', AT.modelBytes, 262_144),
    word('truncated', 'index-longer-than-file', AT.indexBytes, 1_048_576),
    word('truncated', 'payload-longer-than-file', AT.payloadBytes + 4, 1),
    word('trailing-bytes', 'no-index', AT.indexBytes, 0),
    word('trailing-bytes', 'no-payload', AT.payloadBytes, 0),
    word('bad-shape', 'other-groups-of-the-set', AT.groups, 4703),
    word('table-length', 'tensor-count-too-small', AT.tensorCount, 1),
    // What follows the run is taken for another one.
    word('unknown-coder', 'tensor-count-too-large', AT.tensorCount, 3),
    field('content-mismatch', 'content-digest-of-another-set', (header) => header.fill(0x11, AT.content, AT.parent)),
  ];
}

export function cutOrExtended(): CorruptFile[] {
  const { table, models: modelSection, index, payload } = offsets(DENSE);
  const cuts: [string, number][] = [
    ['empty', 0],
    ['in-magic', 5],
    ['at-end-of-magic', 8],
    ['in-fixed-header', 100],
    ['before-end-of-fixed-header', FIXED_HEADER - 1],
    ['at-end-of-fixed-header', FIXED_HEADER],
    ['in-tensor-table', table + 1],
    ['at-end-of-tensor-table', modelSection],
    ['in-models', modelSection + 10],
    ['at-end-of-models', index],
    ['in-chunk-index', index + 4],
    ['at-end-of-chunk-index', payload],
    ['in-first-chunk', payload + 100],
    ['before-last-byte', DENSE.length - 1],
  ];
  return [
    ...cuts.map(([where, length]): CorruptFile => ['truncated', `cut-${where}`, DENSE.slice(0, length)]),
    ['trailing-bytes', 'one-zero-byte-more', Uint8Array.of(...DENSE, 0)],
    ['trailing-bytes', 'two-containers', Uint8Array.of(...DENSE, ...DENSE)],
  ];
}
