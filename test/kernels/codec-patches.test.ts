import assert from 'node:assert/strict';
import { test } from 'node:test';
import { crc32c } from '../../codec/crc32c.js';
import type { ChunkCoding } from '../../codec/dense-chunk.js';
import { CodecError } from '../../codec/errors.js';
import { decodePatchFast, type PatchCoding } from '../../codec/fast-patches.js';
import { decodePatchChunk, encodePatchChunk, type Changes } from '../../codec/patch-chunk.js';
import { symbolsToNibbles } from '../../codec/pattern.js';
import { CHUNK_OK, CHUNK_OVERRUN, CHUNK_POSITION, native, type PatchedTensor } from '../../kernels/index.js';
import {
  codingOf,
  damaged,
  gapsOf,
  nibbleOf,
  patchOf,
  plansOf,
  randomCase,
  symbolOf,
  type Case,
} from './codec-cases.js';
import { onEveryIsa } from './every-isa.js';
import { random } from './numbers.js';
import { scoped } from './scope.js';

const FULL_CHUNK = 256;

interface Coded {
  readonly cases: Case[];
  readonly coding: ChunkCoding;
  /** Tensors of each chunk. */
  readonly chunkTensors: readonly (readonly number[])[];
  readonly chunks: Uint8Array[];
}

/** Tensors with one change, with all groups changed, with few changes far apart. */
function coded(coder: 'patch' | 'patch+weights', seed: number): Coded {
  const next = random(seed);
  const shapes: readonly (readonly [number, number, number])[] = [
    [16, 64, 0.05],
    [1, 4, 1],
    [64, 256, 0.001],
    [512, 576, 0.00002],
    [100, 100, 0.3],
    [9, 12, 1],
    [256, 256, 0.01],
  ];
  const cases = shapes.map(([rows, cols, churn]) => randomCase(next, coder, rows, cols, churn));
  const coding = codingOf(cases);
  const chunkTensors = plansOf(cases).flatMap((plan) => (plan.kind === 'patch' ? [plan.tensors] : []));
  const chunks = chunkTensors.map((tensors) => encodePatchChunk(tensors, coding, (i) => (cases[i] as Case).changes));
  return { cases, coding, chunkTensors, chunks };
}

function decode(
  { cases, coding }: Coded,
  chunks: readonly Uint8Array[],
): { tensors: PatchedTensor[]; statuses: Int32Array } {
  const tensors = cases.map((one) => patchOf(one, coding, false));
  const statuses = new Int32Array(chunks.length).fill(-1);
  native.decodePatches(tensors, FULL_CHUNK, gapsOf(cases, coding), {
    payload: new Uint8Array(Buffer.concat(chunks)),
    lengths: Uint32Array.from(chunks, (chunk) => chunk.length),
    checksums: Uint32Array.from(chunks, (chunk) => crc32c(chunk)),
    statuses,
  });
  return { tensors, statuses };
}

function nativeCoding(cases: readonly Case[], { tensors, models }: ChunkCoding): PatchCoding {
  const inputs: PatchCoding['inputs'] = (i) => ({
    parent: symbolsToNibbles((cases[i] as Case).parent),
    weights: (cases[i] as Case).weights,
  });
  return { tensors, models, inputs };
}

function byReference(chunk: Uint8Array, tensors: readonly number[], coding: ChunkCoding): Changes[] | number {
  try {
    return decodePatchChunk(chunk, tensors, coding) ?? CHUNK_OVERRUN;
  } catch (error) {
    if (error instanceof CodecError && error.code === 'patch-position') return CHUNK_POSITION;
    throw error;
  }
}

onEveryIsa(import.meta.url, () => {
  for (const coder of ['patch', 'patch+weights'] as const) {
    test(`${coder}: bytes and changes are those of the TypeScript codec`, () => {
      for (let seed = 0; seed < 5; seed++) {
        const all = coded(coder, seed);
        const { cases, coding, chunks } = all;
        const filled = cases.map((one) => patchOf(one, coding, true));
        const changes = filled.reduce((sum, tensor) => sum + tensor.changes, 0);
        const out = new Uint8Array(32 * chunks.length + 10 * changes);
        const [lengths, checksums] = [new Uint32Array(chunks.length), new Uint32Array(chunks.length)];
        const bytes = native.encodePatches(filled, FULL_CHUNK, gapsOf(cases, coding), out, lengths, checksums);
        assert.deepEqual(Buffer.from(out.subarray(0, bytes)), Buffer.concat(chunks));
        assert.deepEqual(
          [...lengths],
          chunks.map((chunk) => chunk.length),
        );
        assert.deepEqual(
          [...checksums],
          chunks.map((chunk) => crc32c(chunk)),
        );
        const { tensors, statuses } = decode(all, chunks);
        assert.ok(statuses.every((status) => status === CHUNK_OK));
        tensors.forEach((tensor, i) => {
          assert.deepEqual(tensor.positions, filled[i]?.positions);
          assert.deepEqual(tensor.codes, filled[i]?.codes);
        });
      }
    });

    test(`${coder}: the parent may be a compacted matrix`, () => {
      for (let seed = 0; seed < 5; seed++) {
        scoped((scope) => {
          const next = random(seed);
          const shapes: readonly (readonly [number, number])[] = [
            [16, 64],
            [9, 136],
            [64, 576],
            [3, 8],
          ];
          const cases = shapes.map(([rows, cols]) => randomCase(next, coder, rows, cols, 0.05));
          const coding = codingOf(cases);
          const members = cases.map((_, i) => i);
          const chunk = encodePatchChunk(members, coding, (i) => (cases[i] as Case).changes);
          const inputs: PatchCoding['inputs'] = (i) => {
            const { entry, parent, weights } = cases[i] as Case;
            const packed = scope.room((entry.rows * entry.cols * 9) / 8);
            const w = scope.put(weights);
            native.compress24(packed, w, scope.put(symbolsToNibbles(parent)), entry.rows, entry.cols);
            return { packedParent: packed, weights: w };
          };
          assert.deepEqual(
            decodePatchFast(native, chunk, members, { ...coding, inputs }),
            cases.map(({ changes }) => changes),
          );
        });
      }
    });

    test(`${coder}: damaged chunks are refused and accepted exactly as the TypeScript codec does`, () => {
      const next = random(7);
      const all = coded(coder, 3);
      for (let round = 0; round < 150; round++) {
        const chunks = all.chunks.map((chunk) => damaged(next, chunk));
        const { tensors, statuses } = decode(all, chunks);
        chunks.forEach((chunk, c) => {
          const members = all.chunkTensors[c]!;
          const expected = byReference(chunk, members, all.coding);
          assert.equal(statuses[c], Array.isArray(expected) ? CHUNK_OK : expected, `round ${round}, chunk ${c}`);
          if (!Array.isArray(expected)) return;
          members.forEach((index, i) => {
            assert.deepEqual(tensors[index]!.positions, expected[i]!.groups);
            assert.deepEqual(Uint8Array.from(tensors[index]!.codes, symbolOf), expected[i]!.symbols);
          });
        });
      }
    });
  }

  test('a chunk of both patch coders, whose gap tables differ, is left to the TypeScript codec', () => {
    const cases = (['patch', 'patch+weights', 'patch'] as const).map((coder, i) =>
      randomCase(random(i), coder, 16, 64, i === 1 ? 0.5 : 0.05),
    );
    const coding = codingOf(cases);
    const changesOf = (i: number): Changes => (cases[i] as Case).changes;
    const mixed = encodePatchChunk([0, 1, 2], coding, changesOf);
    const fast = nativeCoding(cases, coding);
    assert.equal(decodePatchFast(native, mixed, [0, 1, 2], fast), undefined);
    assert.deepEqual(
      decodePatchChunk(mixed, [0, 1, 2], coding),
      cases.map(({ changes }) => changes),
    );
    const alike = encodePatchChunk([0, 2], coding, changesOf);
    assert.deepEqual(decodePatchFast(native, alike, [0, 2], fast), [changesOf(0), changesOf(2)]);
  });

  test('changes are found, and applied in place or beside', () => {
    for (const [rows, cols] of [
      [1, 4],
      [33, 100],
      [64, 64],
      [5, 12],
    ] as const) {
      const { entry, symbols, parent, changes } = randomCase(random(rows), 'patch', rows, cols);
      const [child, from] = [symbolsToNibbles(symbols), symbolsToNibbles(parent)];
      const [positions, codes] = [new Uint32Array(entry.groups), new Uint8Array(entry.groups)];
      const count = native.findChanges(child, from, entry.groups, positions, codes);
      assert.deepEqual(positions.subarray(0, count), changes.groups);
      assert.deepEqual(codes.subarray(0, count), Uint8Array.from(changes.symbols, nibbleOf));
      const beside = new Uint8Array(child.length);
      native.applyChanges(beside, from, entry.groups, changes.groups, codes.subarray(0, count));
      assert.deepEqual(beside, child);
      native.applyChanges(from, from, entry.groups, changes.groups, codes.subarray(0, count));
      assert.deepEqual(from, child);
      assert.throws(() => native.applyChanges(from, from, entry.groups, Uint32Array.of(entry.groups), codes), {
        name: 'RangeError',
        message: /expected changed groups below/,
      });
    }
  });

  test('an encoder refuses positions that do not ascend or lie beyond, and codes that are no pattern or have no frequency', () => {
    const { cases, coding } = coded('patch', 1);
    const one = patchOf(cases[0]!, coding, true);
    const encode = (tensor: PatchedTensor): number =>
      native.encodePatches(
        [tensor],
        1,
        gapsOf(cases, coding),
        new Uint8Array(4096),
        new Uint32Array(1),
        new Uint32Array(1),
      );
    assert.ok(encode(one) > 0);
    const swapped = one.positions.slice().reverse();
    const beyond = one.positions.slice();
    beyond[beyond.length - 1] = one.groups;
    const unchanged = one.codes.slice();
    unchanged[0] = nibbleOf(cases[0]!.parent[one.positions[0]!]!);
    const other = { ...one, coder: 9, cum: new Uint16Array(420).map((_, at) => (at % 7 === 6 ? 16384 : 0)) };
    assert.throws(
      () =>
        native.encodePatches(
          [one, other],
          1,
          gapsOf(cases, coding),
          new Uint8Array(0),
          new Uint32Array(2),
          new Uint32Array(2),
        ),
      { name: 'RangeError', message: /expected coder to be that of the first tensor/ },
    );
    const noPatterns = [0, 5, 20].map((code) => ({ codes: one.codes.with(0, code) }));
    for (const bad of [{ positions: swapped }, { positions: beyond }, { codes: unchanged }, ...noPatterns]) {
      assert.throws(() => encode({ ...one, ...bad }), { name: 'RangeError', message: /^encodePatches: expected / });
    }
  });
});
