/**
 * Every way a file of version 2 can be wrong, made on purpose: [error code, defect, bytes]. `make-fixtures` writes them to
 * test/fixtures/corrupt/CODE/DEFECT.mask. They come from four small valid containers. Those of version 1, in
 * test/fixtures/corrupt-version-1, were made by the writer of their time.
 */
import type { CoderName } from '../../codec/coder.js';
import type { DecodeContext } from '../../codec/context.js';
import { encodeMaskSet } from '../../codec/encode.js';
import type { CodecErrorCode } from '../../codec/errors.js';
import {
  AT,
  FIXED_HEADER,
  indexEntries,
  seal,
  sealChunks,
  setIndex,
  setModels,
  setPayload,
  setTable,
  setU32,
  takeApart,
  varint,
  type ContainerParts,
} from './container-parts.js';
import { OTHER_BASE, randomChild, randomSet, randomWeights } from './random-sets.js';

export type CorruptFile = readonly [code: CodecErrorCode, defect: string, bytes: Uint8Array];

/** 64 · 288 / 4 = 4608 groups in two chunks of uniform-ac, 16 · 24 / 4 = 96 in one. */
const SHAPES = { 'q_proj.weight': [64, 288], 'k_proj.weight': [16, 24] } as const;
const PARENT = randomSet(900, [2, 4], SHAPES);
const SET = randomChild(901, PARENT, 200);
const WEIGHTS = randomWeights(902, SHAPES);
const encode = (coder: CoderName): Uint8Array =>
  encodeMaskSet(SET, { coder, chunkLog2: 12, patchLog2: 8, context: { parent: PARENT, weights: WEIGHTS } });

/** The container that most are made of: names and shapes of its own, and chunks whose lengths say how many symbols they have. */
export const VALID = encode('uniform-ac');
/** Inherits its tensors. */
const PATCH = encode('patch');
const DENSE = encode('parent+weights');
const SCALED = encode('scaled-weights');
const VALID_ONES = { VALID, PATCH, DENSE, SCALED };
/** Where in the tensor table of VALID: coder and its run, then two entries. */
const TABLE = {
  coder: 0,
  run: 1,
  prefix: 2,
  suffix: 3,
  middle: 4,
  name: 5,
  rows: 18,
  cols: 19,
  second: 21,
  secondRows: 25,
} as const;

/** What the reader has, for files that need something: all of it, but where the lack of it is the defect. */
export function contextFor(code: CodecErrorCode): DecodeContext {
  if (code === 'parent-missing') return { weights: WEIGHTS };
  if (code === 'weights-missing') return { parent: PARENT };
  if (code === 'weights-mismatch') return { parent: PARENT, weights: () => new Uint16Array(4) };
  return { parent: PARENT, weights: WEIGHTS };
}

export function validOnes(): readonly Uint8Array[] {
  return Object.values(VALID_ONES);
}

export function corruptFiles(): CorruptFile[] {
  return [
    ...otherFiles(),
    ...flippedBits(),
    ...headerFields(),
    ...cutOrExtended(),
    ...tensorTable(),
    ...models(),
    ...kinship(),
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
function headerFields(): CorruptFile[] {
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

function cutOrExtended(): CorruptFile[] {
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

function tensorTable(): CorruptFile[] {
  const set = (code: CodecErrorCode, defect: string, at: number, ...values: number[]): CorruptFile =>
    changed(code, defect, ({ table }) => table.set(values, at));
  const replaced = (
    code: CodecErrorCode,
    defect: string,
    at: number,
    removed: number,
    ...added: number[]
  ): CorruptFile =>
    changed(code, defect, (parts) => {
      setTable(parts, Uint8Array.from([...parts.table.slice(0, at), ...added, ...parts.table.slice(at + removed)]));
    });
  const longName = Array.from({ length: 255 }, () => 120);
  return [
    set('table-length', 'run-of-no-tensors', TABLE.run, 0),
    set('table-length', 'run-beyond-the-tensors', TABLE.run, 3),
    set('table-length', 'name-over-the-end', TABLE.second + 2, 200),
    replaced('table-length', 'byte-after-the-last-entry', 27, 0, 0),
    replaced('table-length', 'last-entry-cut', 26, 1),
    replaced('bad-varint', 'run-with-a-needless-byte', TABLE.run, 1, 0x82, 0),
    replaced('bad-varint', 'cols-of-six-bytes', TABLE.cols, 2, 0x80, 0x80, 0x80, 0x80, 0x80, 1),
    replaced('bad-varint', 'cols-beyond-32-bits', TABLE.cols, 2, 0xff, 0xff, 0xff, 0xff, 0x1f),
    set('unknown-coder', 'coder-0', TABLE.coder, 0),
    set('unknown-coder', 'coder-11', TABLE.coder, 11),
    set('unknown-coder', 'coder-255', TABLE.coder, 255),
    replaced('bad-name', 'empty-name', TABLE.middle, 14, 0),
    replaced('bad-name', 'name-of-256-bytes', TABLE.prefix, 19, 0, 0, 255, ...longName, 1, 4, 255, 0, 1, 121, 1, 4),
    set('bad-name', 'prefix-of-no-name', TABLE.prefix, 1),
    set('bad-name', 'suffix-longer-than-the-name-before', TABLE.second + 1, 14),
    set('bad-name', 'line-end-in-name', TABLE.name, 10),
    set('bad-name', 'space-in-name', TABLE.name, 32),
    set('bad-name', 'zero-byte-in-name', TABLE.name + 4, 0),
    set('bad-name', 'byte-above-ascii-in-name', TABLE.name, 0xe9),
    set('duplicate-tensor', 'same-name-twice', TABLE.second + 3, 'q'.charCodeAt(0)),
    set('bad-shape', 'no-rows', TABLE.rows, 0),
    replaced('bad-shape', 'no-cols', TABLE.cols, 2, 0),
    replaced('bad-shape', 'absurd-rows', TABLE.rows, 1, ...varint(2 ** 32 - 1)),
    replaced('bad-shape', 'absurd-cols', TABLE.cols, 2, ...varint(2 ** 32 - 4)),
    replaced('bad-shape', 'cols-not-a-multiple-of-4', TABLE.cols, 2, ...varint(290)),
    replaced('bad-shape', 'absurd-groups', TABLE.rows, 3, ...varint(2 ** 24), ...varint(2 ** 24)),
    replaced('bad-shape', 'groups-that-wrap-32-bits', TABLE.rows, 3, ...varint(2 ** 17), ...varint(2 ** 17)),
    set('bad-shape', 'one-row-more-than-the-set-has', TABLE.secondRows, 17),
    set('content-mismatch', 'another-name', TABLE.name, 'v'.charCodeAt(0)),
    replaced('content-mismatch', 'rows-and-cols-swapped', TABLE.rows, 3, ...varint(288), ...varint(64)),
  ];
}

function models(): CorruptFile[] {
  const model = (defect: string, change: (parts: ContainerParts) => unknown): CorruptFile =>
    changed('model-table', defect, change, DENSE);
  const bytes = (...models: number[]): ((parts: ContainerParts) => void) => {
    return (parts) => setModels(parts, Uint8Array.from(models));
  };
  const LEFT_OUT = [254, 59];
  return [
    model('no-models', bytes()),
    model('cut', (parts) => setModels(parts, parts.models.slice(0, -1))),
    model('byte-after-the-last-table', (parts) => setModels(parts, Uint8Array.of(...parts.models, 0))),
    model('more-left-out-than-there-are', bytes(254, 60)),
    model('code-176', bytes(176, 255, 0, 0, 0, 0, 254, 58)),
    model('no-rest', bytes(150, 150, 0, 0, 0, 0, 254, 58)),
    model('two-rests', bytes(255, 255, 0, 0, 0, 0, 254, 58)),
    model('nothing-left-for-the-rest', bytes(175, 144, 255, 0, 0, 0, 254, 58)),
    model('tables-of-no-tensor', bytes(...LEFT_OUT, 255, 0, 0, 0, 0, 0)),
    changed('model-table', 'own-pattern-in-a-patch', bytes(254, 0, 255, 100, 0, 0, 0, 0, 254, 4), PATCH),
  ];
}

/** What does not fit the parent, or is not there. */
function kinship(): CorruptFile[] {
  const large = randomSet(903, [2, 4], { ...SHAPES, 'v_proj.weight': [16, 24] });
  const shorter = randomSet(904, [2, 4], { 'q_proj.weight': [64, 288], 'k_proj.weight': [12, 24] });
  const other = (parent: typeof PARENT): Uint8Array =>
    encodeMaskSet(randomChild(905, parent, 200), { context: { parent }, coder: 'patch' });
  // Not by inheritance, but by name: one tensor of another shape than the parent's.
  const named = takeApart(
    encodeMaskSet({ ...SET, masks: SET.masks.slice(0, 1) }, { context: { parent: PARENT }, coder: 'parent' }),
  );
  setTable(named, Uint8Array.from([...named.table.slice(0, -3), ...varint(288), ...varint(64)]));
  return [
    ['parent-missing', 'patch', PATCH],
    ['parent-missing', 'dense', DENSE],
    ['weights-missing', 'parent-and-weights', DENSE],
    ['weights-missing', 'scaled', SCALED],
    ['weights-mismatch', 'parent-and-weights', DENSE],
    ['chain-too-deep', 'its-own-ancestor', PATCH],
    ['parent-mismatch', 'parent-of-more-tensors', other(large)],
    ['parent-mismatch', 'parent-of-other-groups', other(shorter)],
    ['parent-mismatch', 'tensor-of-another-shape', seal(named)],
    changed(
      'patch-count',
      'more-changes-than-groups',
      (parts) => {
        setTable(parts, Uint8Array.from([8, 2, ...varint(97), ...varint(60)]));
      },
      PATCH,
    ),
  ];
}

function chunkIndex(): CorruptFile[] {
  const entry = (
    code: CodecErrorCode,
    defect: string,
    change: (bytes: number[]) => number[],
    from = VALID,
  ): CorruptFile =>
    changed(
      code,
      defect,
      (parts) => {
        const entries = indexEntries(parts);
        const lengths = change(entries.map(({ bytes }) => bytes));
        setIndex(
          parts,
          lengths.map((bytes, i) => ({ bytes, checksum: entries[i]?.checksum ?? 0 })),
        );
      },
      from,
    );
  return [
    entry('chunk-count', 'one-chunk-too-few', ([a, b, c]) => [a!, b! + c!]),
    entry('chunk-count', 'one-chunk-too-many', (all) => [...all, 0]),
    entry('chunk-count', 'no-chunks', () => []),
    entry('chunk-count', 'patch-chunk-too-many', (all) => [...all, 4], PATCH),
    changed('chunk-count', 'absurd-chunks', ({ header }) => setU32(header, AT.chunkCount, 1_048_576)),
    entry('chunk-length', 'empty-chunk', ([a, b, c]) => [a! + c!, b!, 0]),
    entry('chunk-length', 'absurd-chunk-length', ([, b, c]) => [2 ** 32 - 1, b!, c!]),
    entry('chunk-length', 'short-chunk', ([a, b, c]) => [a! - 20, b! + 20, c!]),
    entry('chunk-length', 'dense-chunk-shorter-than-its-states', ([a, b]) => [127, a! + b! - 127], DENSE),
    entry('chunk-length', 'patch-chunk-shorter-than-its-state', () => [3], PATCH),
    entry('payload-length', 'chunks-one-byte-too-short', ([a, b, c]) => [a! - 1, b!, c!]),
    entry('payload-length', 'chunks-one-byte-too-long', ([a, b, c]) => [a!, b!, c! + 1]),
    changed('index-length', 'byte-after-the-last-entry', (parts) => {
      parts.index = Uint8Array.of(...parts.index, 0);
      setU32(parts.header, AT.indexBytes, parts.index.length);
    }),
    changed('index-length', 'last-entry-cut', (parts) => {
      parts.index = parts.index.slice(0, -1);
      setU32(parts.header, AT.indexBytes, parts.index.length);
    }),
    changed('chunk-checksum', 'checksums-swapped', (parts) => {
      const [a, b, c] = indexEntries(parts);
      setIndex(parts, [{ ...a!, checksum: b!.checksum }, { ...b!, checksum: a!.checksum }, c!]);
    }),
    entry('chunk-checksum', 'border-of-chunks-moved', ([a, b, c]) => [a! - 1, b! + 1, c!]),
  ];
}

/** Chunks with right checksums that no encoder writes, or not for this set. */
function payloads(): CorruptFile[] {
  const overrun = (
    defect: string,
    from: Uint8Array,
    change: (payload: Uint8Array, chunk: number) => unknown,
  ): CorruptFile =>
    resealed('symbol-overrun', defect, (parts) => change(parts.payload, indexEntries(parts)[0]!.bytes), from);
  const longer = (defect: string, from: Uint8Array): CorruptFile =>
    resealed(
      'symbol-overrun',
      defect,
      (parts) => {
        const entries = indexEntries(parts);
        setIndex(
          parts,
          entries.map(({ bytes, checksum }, i) => ({ checksum, bytes: bytes + (i === entries.length - 1 ? 2 : 0) })),
        );
        setPayload(parts, Uint8Array.of(...parts.payload, 0, 0));
      },
      from,
    );
  return [
    overrun('no-end-mark', VALID, (payload, chunk) => (payload[chunk - 1] = 0)),
    overrun('all-zero-chunk', VALID, (payload, chunk) => payload.fill(0, 0, chunk)),
    overrun('state-below-the-least', DENSE, (payload) => payload.fill(0, 2, 4)),
    overrun('state-of-another-end', DENSE, (payload) => (payload[0]! ^= 1)),
    overrun('words-changed', DENSE, (payload, chunk) => (payload[chunk - 40]! ^= 255)),
    overrun('scales-changed', SCALED, (payload) => (payload[1]! ^= 255)),
    longer('word-after-the-end', DENSE),
    longer('word-after-the-end-of-a-patch', PATCH),
    ['patch-position', 'beyond-the-tensor', movedChanges()],
    ['content-mismatch', 'one-symbol-changed', oneSymbolChanged()],
    changed('content-mismatch', 'names-of-tensors-swapped', ({ table }) => {
      table[TABLE.name] = 'k'.charCodeAt(0);
      table[TABLE.second + 3] = 'q'.charCodeAt(0);
    }),
  ];
}

/** All gaps of a patch are 63 units and more: by a gap table that says so. */
function movedChanges(): Uint8Array {
  const parts = takeApart(PATCH);
  const gaps = [...Array.from({ length: 63 }, () => 0), 255];
  setModels(parts, Uint8Array.from([...gaps, 254, 5]));
  return seal(parts);
}

/** Another set under the content digest of this one. */
function oneSymbolChanged(): Uint8Array {
  const [first, second] = [SET.masks[0]!, SET.masks[1]!];
  const symbols = second.symbols.slice();
  symbols[50] = (symbols[50]! + 1) % 6;
  const changedSet = { ...SET, masks: [first, { ...second, symbols }] };
  const other = takeApart(encodeMaskSet(changedSet, { chunkLog2: 12, coder: 'uniform-ac' }));
  other.header.set(VALID.subarray(AT.content, AT.parent), AT.content);
  return seal(other);
}

function offsets(bytes: Uint8Array): { table: number; models: number; index: number; payload: number } {
  const { table, models: modelSection, index } = takeApart(bytes);
  const start = FIXED_HEADER + table.length;
  return {
    table: FIXED_HEADER,
    models: start,
    index: start + modelSection.length,
    payload: start + modelSection.length + index.length,
  };
}

function changed(
  code: CodecErrorCode,
  defect: string,
  change: (parts: ContainerParts) => unknown,
  from: Uint8Array = VALID,
): CorruptFile {
  const parts = takeApart(from);
  change(parts);
  return [code, defect, seal(parts)];
}

function resealed(
  code: CodecErrorCode,
  defect: string,
  change: (parts: ContainerParts) => unknown,
  from: Uint8Array = VALID,
): CorruptFile {
  return changed(
    code,
    defect,
    (parts) => {
      change(parts);
      sealChunks(parts);
    },
    from,
  );
}
