import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CoderName } from '../../codec/coder.js';
import { crc32c } from '../../codec/crc32c.js';
import { decodeDense, encodeDense, type ChunkCoding } from '../../codec/dense-chunk.js';
import { groupContexts, toCoded } from '../../codec/group-contexts.js';
import type { ChunkPlan } from '../../codec/layout.js';
import { nibblesToSymbols, symbolsToNibbles } from '../../codec/pattern.js';
import {
  CHUNK_CHECKSUM,
  CHUNK_OK,
  CHUNK_OVERRUN,
  native,
  type CodedChunks,
  type CodedTensor,
  type Handle,
} from '../../kernels/index.js';
import { codingOf, damaged, PATTERNS, plansOf, randomCase, sourcesOf, tensorOf, type Case } from './codec-cases.js';
import { onEveryIsa } from './every-isa.js';
import { random, type Random } from './numbers.js';
import { scoped } from './scope.js';

const CODERS: readonly CoderName[] = ['uniform', 'static', 'parent', 'weights', 'scaled-weights', 'parent+weights'];
/** A chunk of 128 steps, the least with 32 lanes. */
const CHUNK_STEPS = 128;

type DensePlan = ChunkPlan & { kind: 'dense' };

/** Every coder over shapes with odd numbers of groups, rows that no step fits, tensors smaller than a step, and a short last chunk. */
function mixedCases(next: Random): Case[] {
  const shapes: readonly (readonly [number, number])[] = [
    [64, 256],
    [33, 100],
    [1, 4],
    [7, 12],
    [45, 576],
    [3, 8],
  ];
  return CODERS.flatMap((coder, i) =>
    [0, 1].map((j) => {
      const [rows, cols] = shapes[(i + 3 * j) % shapes.length] ?? [1, 4];
      return randomCase(next, coder, rows, cols);
    }),
  );
}

function encodedByReference(cases: readonly Case[], coding: ChunkCoding, plans: readonly DensePlan[]): Uint8Array[] {
  return plans.map(({ lanes, pieces }) =>
    encodeDense(lanes, pieces, coding, ({ tensor, first, count }) =>
      (cases[tensor] as Case).symbols.subarray(first, first + count),
    ),
  );
}

function room(cases: readonly Case[], coding: ChunkCoding): CodedTensor[] {
  return cases.map((one) => tensorOf(one, coding, new Uint8Array(Math.ceil(one.entry.groups / 2))));
}

function decode(tensors: readonly CodedTensor[], firstChunk: number, chunks: readonly Uint8Array[]): Int32Array {
  const run = runOf(chunks);
  native.decodeMasks(tensors, CHUNK_STEPS, CHUNK_STEPS * firstChunk, run);
  return run.statuses;
}

function runOf(chunks: readonly Uint8Array[]): CodedChunks {
  return {
    payload: new Uint8Array(Buffer.concat(chunks)),
    lengths: Uint32Array.from(chunks, (chunk) => chunk.length),
    checksums: Uint32Array.from(chunks, (chunk) => crc32c(chunk)),
    statuses: new Int32Array(chunks.length).fill(-1),
  };
}

function bytesOf(buffer: Handle): Buffer {
  const bytes = Buffer.alloc(native.byteLength(buffer));
  native.read(buffer, 0, bytes);
  return bytes;
}

function densePlans(cases: readonly Case[]): DensePlan[] {
  return plansOf(cases).filter((plan): plan is DensePlan => plan.kind === 'dense');
}

onEveryIsa(import.meta.url, () => {
  test('all coders of symbols encode to the bytes of the TypeScript codec, and decode to the same nibbles', () => {
    for (let seed = 0; seed < 6; seed++) {
      const cases = mixedCases(random(seed));
      const coding = codingOf(cases);
      const plans = densePlans(cases);
      const expected = encodedByReference(cases, coding, plans);
      const steps = cases.reduce((sum, { entry }) => sum + Math.ceil(entry.groups / 32), 0);
      const out = new Uint8Array(128 * plans.length + 64 * steps);
      const [lengths, checksums] = [new Uint32Array(plans.length), new Uint32Array(plans.length)];
      const filled = cases.map((one) => tensorOf(one, coding, symbolsToNibbles(one.symbols)));
      native.setThreads(1 + (seed % 3));
      const bytes = native.encodeMasks(filled, CHUNK_STEPS, 0, out, lengths, checksums);
      assert.deepEqual(Buffer.from(out.subarray(0, bytes)), Buffer.concat(expected));
      assert.deepEqual(
        [...lengths],
        expected.map((chunk) => chunk.length),
      );
      assert.deepEqual(
        [...checksums],
        expected.map((chunk) => crc32c(chunk)),
      );
      const tensors = room(cases, coding);
      assert.ok(decode(tensors, 0, expected).every((status) => status === CHUNK_OK));
      tensors.forEach(({ mask }, i) => assert.deepEqual(mask, filled[i]?.mask, `tensor ${i}`));
    }
  });

  test('chunks from a step on encode alone', () => {
    const cases = mixedCases(random(12));
    const coding = codingOf(cases);
    const plans = densePlans(cases);
    const expected = encodedByReference(cases, coding, plans);
    const filled = cases.map((one) => tensorOf(one, coding, symbolsToNibbles(one.symbols)));
    const out = new Uint8Array(2 * (128 + 64 * CHUNK_STEPS));
    for (let first = 0; first < plans.length; first += 2) {
      const count = Math.min(2, plans.length - first);
      const [lengths, checksums] = [new Uint32Array(count), new Uint32Array(count)];
      const bytes = native.encodeMasks(filled, CHUNK_STEPS, first * CHUNK_STEPS, out, lengths, checksums);
      assert.deepEqual(Buffer.from(out.subarray(0, bytes)), Buffer.concat(expected.slice(first, first + count)));
    }
    const none = new Uint32Array(plans.length + 1);
    assert.throws(() => native.encodeMasks(filled, CHUNK_STEPS, 0, out, none, none), {
      message: /expected chunks of at most those from firstStep/,
    });
  });

  test('chunks decode straight to compacted matrices, with the bits of compress24, from whichever chunk', () => {
    const shapes: readonly (readonly [number, number])[] = [
      [33, 64],
      [5, 576],
      [1, 64],
      [24, 192],
      [17, 128],
      [40, 256],
    ];
    for (let seed = 0; seed < 4; seed++) {
      const next = random(seed);
      const cases = CODERS.map((coder, i) => randomCase(next, coder, ...shapes[(i + seed) % shapes.length]!));
      const coding = codingOf(cases);
      const plans = densePlans(cases);
      const chunks = encodedByReference(cases, coding, plans);
      native.setThreads(1 + (seed % 3));
      scoped((scope) => {
        const packed = cases.map(({ entry: { rows, cols } }) => scope.room((rows * cols * 9) / 8));
        const tensors = cases.map((one, i) => ({
          ...tensorOf(one, coding, new Uint8Array(0)),
          weights: one.weights,
          packed: packed[i]!,
        }));
        const cut = 1 + (seed % (chunks.length - 1));
        for (const [first, end] of [
          [0, cut],
          [cut, chunks.length],
        ] as const) {
          const run = runOf(chunks.slice(first, end));
          const share = native.decodeCompressed(tensors, CHUNK_STEPS, CHUNK_STEPS * first, run);
          assert.ok(run.statuses.every((status) => status === CHUNK_OK));
          assert.ok(share > 0 && share < 1, `share ${share}`);
        }
        cases.forEach(({ entry: { rows, cols }, weights, symbols }, i) => {
          const expected = scope.room((rows * cols * 9) / 8);
          native.compress24(expected, scope.put(weights), scope.put(symbolsToNibbles(symbols)), rows, cols);
          assert.deepEqual(bytesOf(packed[i]!), bytesOf(expected), `tensor ${i}`);
        });
        const narrow = randomCase(next, 'static', 8, 72);
        assert.throws(
          () =>
            native.decodeCompressed(
              [
                {
                  ...tensorOf(narrow, codingOf([narrow]), new Uint8Array(0)),
                  weights: narrow.weights,
                  packed: packed[0]!,
                },
              ],
              CHUNK_STEPS,
              0,
              runOf(chunks.slice(0, 1)),
            ),
          { name: 'TypeError', message: /cols to be a multiple of 64/ },
        );
      });
    }
    native.setThreads(0);
  });

  test('chunks decode alone, in buffers as in arrays, and a tensor without room is passed over', () => {
    const cases = mixedCases(random(11));
    const coding = codingOf(cases);
    const plans = densePlans(cases);
    const chunks = encodedByReference(cases, coding, plans);
    plans.forEach(({ pieces }, chunk) => {
      const tensors = room(cases, coding);
      const target = pieces.at(-1)!;
      const bytes = Math.ceil(tensors[target.tensor]!.groups / 2);
      const buffer = native.alloc(bytes);
      const weights = native.alloc(8 * tensors[target.tensor]!.groups);
      native.write(weights, 0, cases[target.tensor]!.weights);
      const only = tensors.map((tensor, i) => {
        const { mask, ...rest } = tensor;
        void mask;
        return i === target.tensor ? { ...rest, mask: buffer, weights } : rest;
      });
      assert.deepEqual([...decode(only, chunk, [chunks[chunk]!])], [CHUNK_OK]);
      const mask = new Uint8Array(bytes);
      native.read(buffer, 0, mask);
      native.free(buffer);
      native.free(weights);
      const from = target.first / 2;
      const part = mask.subarray(from, from + Math.ceil(target.count / 2));
      const { symbols } = cases[target.tensor]!;
      assert.deepEqual(nibblesToSymbols(part, target.count), symbols.slice(target.first, target.first + target.count));
    });
  });

  test('damaged chunks are refused and accepted exactly as the TypeScript codec does', () => {
    const next = random(21);
    const cases = mixedCases(next);
    const coding = codingOf(cases);
    const plans = densePlans(cases);
    const chunks = encodedByReference(cases, coding, plans);
    for (let round = 0; round < 60; round++) {
      const mutated = chunks.map((chunk, i) => {
        const bytes = damaged(next, chunk);
        return bytes.length < plans[i]!.minBytes ? chunk : bytes;
      });
      const tensors = room(cases, coding);
      decode(tensors, 0, mutated).forEach((status, i) => {
        const { lanes, pieces } = plans[i]!;
        const reference = decodeDense(mutated[i]!, lanes, pieces, coding);
        assert.equal(status, reference === undefined ? CHUNK_OVERRUN : CHUNK_OK, `round ${round}, chunk ${i}`);
        reference?.forEach((symbols, p) => {
          const { tensor, first, count } = pieces[p]!;
          const part = (tensors[tensor]!.mask as Uint8Array).subarray(first / 2, (first + count + 1) >> 1);
          assert.deepEqual(nibblesToSymbols(part, count), symbols);
        });
      });
    }
  });

  test('bytes that differ from their checksum are told from bytes that do not end', () => {
    const cases = [randomCase(random(31), 'static', 64, 256)];
    const coding = codingOf(cases);
    const [chunk] = encodedByReference(cases, coding, densePlans(cases)) as [Uint8Array];
    const statuses = new Int32Array(1);
    const chunks = { payload: chunk, lengths: Uint32Array.of(chunk.length), checksums: Uint32Array.of(1), statuses };
    native.decodeMasks(room(cases, coding), CHUNK_STEPS, 0, chunks);
    assert.deepEqual([...statuses], [CHUNK_CHECKSUM]);
  });

  test('histograms are those of the TypeScript contexts, on any number of threads', () => {
    for (const one of mixedCases(random(41)).concat(randomCase(random(42), 'parent+weights', 512, 512))) {
      const { coder, groups } = one.entry;
      const contexts = groupContexts(coder, PATTERNS, sourcesOf(one), { first: 0, count: groups });
      const expected = new Uint32Array(8 * 64);
      toCoded(one.symbols, contexts, PATTERNS).forEach((symbol, i) => {
        const at = 8 * (contexts.contexts[i] ?? 0) + symbol;
        expected[at] = (expected[at] ?? 0) + 1;
      });
      for (const threads of [1, 3]) {
        native.setThreads(threads);
        const counts = new Uint32Array(8 * 64);
        native.countSymbols(tensorOf(one, codingOf([one]), symbolsToNibbles(one.symbols)), counts);
        assert.deepEqual(counts, expected, coder.name);
      }
    }
  });

  test('the magnitude mask keeps the two largest of each group, the earlier of equals', () => {
    const { weights, entry } = randomCase(random(51), 'magnitude', 37, 36);
    weights.set([0x7fc1, 0x3f80, 0xbf80, 0xff80]); // NaN and infinity are integers too
    const mask = new Uint8Array(Math.ceil(entry.groups / 2));
    native.magnitudeMask({ coder: 10, groups: entry.groups, cols: 36, weights, mask });
    const expected = Uint8Array.from({ length: entry.groups }, (_, g) => {
      const order = [0, 1, 2, 3].sort(
        (a, b) => (weights[4 * g + b]! & 0x7fff) - (weights[4 * g + a]! & 0x7fff) || a - b,
      );
      return [3, 5, 9, 6, 10, 12].indexOf((1 << order[0]!) | (1 << order[1]!));
    });
    assert.deepEqual(nibblesToSymbols(mask, entry.groups), expected);
  });
});
