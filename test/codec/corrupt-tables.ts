/** Corrupt files: tables with right checksums that say something impossible, alone or beside the parent. */
import { encodeMaskSet } from '../../codec/encode.js';
import type { CodecErrorCode } from '../../codec/errors.js';
import {
  AT,
  indexEntries,
  seal,
  setIndex,
  setModels,
  setTable,
  setU32,
  takeApart,
  varint,
  type ContainerParts,
} from './container-parts.js';
import {
  changed,
  DENSE,
  PARENT,
  PATCH,
  SCALED,
  SET,
  SHAPES,
  TABLE,
  VALID,
  type CorruptFile,
} from './corrupt-origins.js';
import { randomChild, randomSet } from './random-sets.js';

export function tensorTable(): CorruptFile[] {
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

export function models(): CorruptFile[] {
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
export function kinship(): CorruptFile[] {
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

export function chunkIndex(): CorruptFile[] {
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
