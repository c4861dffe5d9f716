import assert from 'node:assert/strict';
import { test } from 'node:test';
import { native, type Handle, type KvType } from '../../kernels/index.js';
import { onEveryIsa } from './every-isa.js';
import { assertSameBits, floats, random, relativeError, roundedToBf16 } from './numbers.js';
import * as reference from './reference.js';
import type { AttentionShape } from './reference.js';
import { scoped, type Scope } from './scope.js';

const BASE: AttentionShape = {
  start: 0,
  tokens: 1,
  heads: 4,
  kvHeads: 2,
  headDim: 16,
  capacity: 200,
  scale: 0.25,
  window: 0,
};

const CASES: readonly Partial<AttentionShape>[] = [
  {},
  { start: 63 },
  { start: 64 },
  { start: 150, tokens: 3 },
  { tokens: 130 },
  { tokens: 70, window: 1 },
  { tokens: 70, window: 7 },
  { start: 100, tokens: 90, window: 64 },
  { start: 10, tokens: 60, window: 1000 },
  { heads: 9, kvHeads: 3, headDim: 64, tokens: 20, start: 31 },
  { heads: 1, kvHeads: 1, headDim: 5, tokens: 9, start: 70 },
  { heads: 2, kvHeads: 1, headDim: 20, tokens: 9, start: 70 },
  { heads: 2, kvHeads: 2, headDim: 80, tokens: 2, start: 70 },
  { heads: 2, kvHeads: 2, headDim: 128, tokens: 2, start: 70 },
  { heads: 2, kvHeads: 1, headDim: 256, tokens: 2, start: 70 },
  { heads: 71, kvHeads: 1, headDim: 8, tokens: 2, start: 5 },
  { start: 255, capacity: 900 },
  { start: 256, capacity: 900, headDim: 20 },
  { start: 700, tokens: 80, capacity: 800 },
  { start: 600, tokens: 100, capacity: 700, window: 300, heads: 8, kvHeads: 1 },
];

const TYPES = ['f32', 'bf16'] as const satisfies readonly KvType[];

/** Keys of bf16 may be multiplied by a query that is a sum of two bf16s, 2⁻¹⁷ off. */
const TOLERANCE: Readonly<Record<KvType, number>> = { f32: 1e-6, bf16: 1e-5 };

onEveryIsa(import.meta.url, () => {
  for (const change of CASES) {
    test(`attention equals softmax by its definition: ${JSON.stringify(change)}`, () => {
      scoped((scope) => {
        const shape = { ...BASE, ...change };
        const { q, k, v } = inputs(shape, 1);
        for (const type of TYPES) {
          const [held, values] = [k, v].map((cache) =>
            type === 'f32' ? cache : Float32Array.from(roundedToBf16(cache)),
          );
          const error = relativeError(run(scope, q, k, v, shape, type), reference.attention(q, held!, values!, shape));
          assert.ok(error < TOLERANCE[type], `${type}: error ${error}`);
        }
      });
    });
  }

  test('a token of each of several sequences attends as rope, kvWrite and attention of each by itself, bit for bit', () => {
    for (const type of TYPES) {
      for (const shape of [BASE, { ...BASE, heads: 9, kvHeads: 3, headDim: 64 }, { ...BASE, window: 40 }]) {
        for (const threads of [1, 2, 5]) {
          native.setThreads(threads);
          const positions = [0, 700, 63, 255, 256];
          rowsEqualSingles(positions, { ...shape, capacity: 701 }, type);
          rowsEqualSingles([700], { ...shape, capacity: 701 }, type);
        }
      }
    }
    native.setThreads(0);
  });

  test('what lies in the cache outside a token’s positions has no influence, not even as NaN', () => {
    scoped((scope) => {
      const shape = { ...BASE, start: 90, tokens: 4, window: 20 };
      const { q, k, v } = inputs(shape, 2);
      const clean = TYPES.map((type) => run(scope, q, k, v, shape, type));
      for (const cache of [k, v]) {
        for (let row = 0; row < shape.kvHeads * shape.capacity; row++) {
          const position = row % shape.capacity;
          if (position < 90 - 19 || position > 93) cache.fill(NaN, row * shape.headDim, (row + 1) * shape.headDim);
        }
      }
      TYPES.forEach((type, i) => assertSameBits(run(scope, q, k, v, shape, type), clean[i]!, 'poisoned outside'));
    });
  });

  test('a token’s result has the same bits alone, in a batch, and on any number of threads', () => {
    scoped((scope) => {
      for (const window of [50, 0]) {
        const shape = { ...BASE, start: 440, tokens: 100, capacity: 540, heads: 6, headDim: 64, window };
        const { q, k, v } = inputs(shape, 3);
        const row = shape.heads * shape.headDim;
        for (const type of TYPES) {
          native.setThreads(1);
          const whole = run(scope, q, k, v, shape, type);
          for (const threads of [1, 3]) {
            native.setThreads(threads);
            assertSameBits(run(scope, q, k, v, shape, type), whole, 'threads');
            for (let t = 0; t < shape.tokens; t += 7) {
              const one = { ...shape, start: shape.start + t, tokens: 1 };
              const alone = run(scope, q.slice(t * row, (t + 1) * row), k, v, one, type);
              assertSameBits(alone, whole.slice(t * row, (t + 1) * row), `token ${t}`);
            }
          }
        }
      }
      native.setThreads(0);
    });
  });

  test('scores far apart, equal, or minus infinity keep the softmax finite', () => {
    scoped((scope) => {
      const shape = { ...BASE, start: 99, heads: 1, kvHeads: 1, headDim: 1, scale: 1, capacity: 100 };
      const v = Float32Array.from({ length: 100 }, (_, i) => i);
      const keys = [
        new Float32Array(100),
        Float32Array.from({ length: 100 }, (_, i) => i * 1000),
        Float32Array.from({ length: 100 }, (_, i) => -i * 1000),
        Float32Array.from({ length: 100 }, (_, i) => (i < 80 ? -Infinity : 0)),
      ];
      for (const type of TYPES) {
        const outputs = keys.map((k) => run(scope, Float32Array.of(1), k, v, shape, type)[0]);
        assert.deepEqual(outputs, [49.5, 99, 0, 89.5], type);
      }
    });
  });
});

function inputs(s: AttentionShape, seed: number): { q: Float32Array; k: Float32Array; v: Float32Array } {
  const next = random(seed);
  const q = floats(next, s.tokens * s.heads * s.headDim).map((x) => x * 3);
  const cache = (): Float32Array => floats(next, s.kvHeads * s.capacity * s.headDim);
  return { q, k: cache(), v: cache() };
}

function run(
  scope: Scope,
  q: Float32Array,
  k: Float32Array,
  v: Float32Array,
  s: AttentionShape,
  type: KvType = 'f32',
): Float32Array {
  const out = scope.put(new Float32Array(q.length).fill(NaN));
  native.attention(
    out,
    scope.put(q),
    putAs(scope, k, type),
    putAs(scope, v, type),
    s.start,
    s.tokens,
    s.heads,
    s.kvHeads,
    s.headDim,
    s.capacity,
    s.scale,
    s.window,
    type,
  );
  return scope.floats(out, q.length);
}

/** A cache of `type` with these values, rounded. */
function putAs(scope: Scope, values: Float32Array, type: KvType): Handle {
  const given = scope.put(values);
  if (type === 'f32') return given;
  const held = scope.room(values.length * 2);
  native.toBf16(held, given, 'f32', values.length);
  return held;
}

/** attendRows of sequences at `positions`, against the three ops that it stands for. */
function rowsEqualSingles(positions: readonly number[], s: AttentionShape, type: KvType): void {
  scoped((scope) => {
    const next = random(positions.length + s.headDim);
    const rows = positions.length;
    const [qRow, kvRow] = [s.heads * s.headDim, s.kvHeads * s.headDim];
    const [q, k, v] = [floats(next, rows * qRow), floats(next, rows * kvRow), floats(next, rows * kvRow)];
    const [cos, sin] = [0, 1].map(() => scope.put(floats(next, (s.capacity * s.headDim) / 2))) as [Handle, Handle];
    const caches = (): Handle[] => positions.map(() => putAs(scope, floats(next, kvRow * s.capacity), type));
    const [keys, values] = [caches(), caches()];
    const bytes = kvRow * s.capacity * (type === 'f32' ? 4 : 2);
    const copies = [keys, values].map((of) => of.map((handle) => scope.put(scope.bytes(handle, bytes))));
    const out = scope.room(rows * qRow * 4);
    native.attendRows(
      out,
      scope.put(q),
      scope.put(k),
      scope.put(v),
      cos,
      sin,
      Float64Array.from(keys),
      Float64Array.from(values),
      Int32Array.from(positions),
      new Int32Array(rows).fill(s.capacity),
      s.heads,
      s.kvHeads,
      s.headDim,
      s.scale,
      s.window,
      type,
    );
    const together = scope.floats(out, rows * qRow);
    positions.forEach((start, r) => {
      const [query, key] = [q, k].map((x, i) => scope.put(x.slice(r * [qRow, kvRow][i]!, (r + 1) * [qRow, kvRow][i]!)));
      const value = scope.put(v.slice(r * kvRow, (r + 1) * kvRow));
      const [ownKeys, ownValues] = [copies[0]![r]!, copies[1]![r]!];
      native.rope(query!, cos, sin, start, 1, s.heads, s.headDim);
      native.rope(key!, cos, sin, start, 1, s.kvHeads, s.headDim);
      native.kvWrite(ownKeys, key!, start, 1, s.kvHeads, s.headDim, s.capacity, type);
      native.kvWrite(ownValues, value, start, 1, s.kvHeads, s.headDim, s.capacity, type);
      const { heads, kvHeads, headDim, capacity, scale, window } = s;
      const one = scope.room(qRow * 4);
      native.attention(
        one,
        query!,
        ownKeys,
        ownValues,
        start,
        1,
        heads,
        kvHeads,
        headDim,
        capacity,
        scale,
        window,
        type,
      );
      assertSameBits(together.slice(r * qRow, (r + 1) * qRow), scope.floats(one, qRow), `row ${r} at ${start}`);
      assert.deepEqual(scope.bytes(keys[r]!, bytes), scope.bytes(ownKeys, bytes), `keys of row ${r}`);
      assert.deepEqual(scope.bytes(values[r]!, bytes), scope.bytes(ownValues, bytes), `values of row ${r}`);
    });
  });
}
