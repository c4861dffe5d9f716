import assert from 'node:assert/strict';
import { test } from 'node:test';
import { native } from '../../kernels/index.js';
import { onEveryIsa } from './every-isa.js';
import { assertSameBits, floats, random, relativeError } from './numbers.js';
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
];

onEveryIsa(import.meta.url, () => {
  for (const change of CASES) {
    test(`attention equals softmax by its definition: ${JSON.stringify(change)}`, () => {
      scoped((scope) => {
        const shape = { ...BASE, ...change };
        const { q, k, v } = inputs(shape, 1);
        const error = relativeError(run(scope, q, k, v, shape), reference.attention(q, k, v, shape));
        assert.ok(error < 1e-6, `error ${error}`);
      });
    });
  }

  test('what lies in the cache outside a token’s positions has no influence, not even as NaN', () => {
    scoped((scope) => {
      const shape = { ...BASE, start: 90, tokens: 4, window: 20 };
      const { q, k, v } = inputs(shape, 2);
      const clean = run(scope, q, k, v, shape);
      for (const cache of [k, v]) {
        for (let row = 0; row < shape.kvHeads * shape.capacity; row++) {
          const position = row % shape.capacity;
          if (position < 90 - 19 || position > 93) cache.fill(NaN, row * shape.headDim, (row + 1) * shape.headDim);
        }
      }
      assertSameBits(run(scope, q, k, v, shape), clean, 'poisoned outside');
    });
  });

  test('a token’s result has the same bits alone, in a batch, and on any number of threads', () => {
    scoped((scope) => {
      const shape = { ...BASE, start: 40, tokens: 100, heads: 6, headDim: 64, window: 50 };
      const { q, k, v } = inputs(shape, 3);
      native.setThreads(1);
      const whole = run(scope, q, k, v, shape);
      const row = shape.heads * shape.headDim;
      for (const threads of [1, 3]) {
        native.setThreads(threads);
        assertSameBits(run(scope, q, k, v, shape), whole, 'threads');
        for (let t = 0; t < shape.tokens; t += 7) {
          const alone = run(scope, q.slice(t * row, (t + 1) * row), k, v, { ...shape, start: 40 + t, tokens: 1 });
          assertSameBits(alone, whole.slice(t * row, (t + 1) * row), `token ${t}`);
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
      const outputs = keys.map((k) => run(scope, Float32Array.of(1), k, v, shape)[0]);
      assert.deepEqual(outputs, [49.5, 99, 0, 89.5]);
    });
  });
});

function inputs(s: AttentionShape, seed: number): { q: Float32Array; k: Float32Array; v: Float32Array } {
  const next = random(seed);
  const q = floats(next, s.tokens * s.heads * s.headDim).map((x) => x * 3);
  const cache = (): Float32Array => floats(next, s.kvHeads * s.capacity * s.headDim);
  return { q, k: cache(), v: cache() };
}

function run(scope: Scope, q: Float32Array, k: Float32Array, v: Float32Array, s: AttentionShape): Float32Array {
  const out = scope.put(new Float32Array(q.length).fill(NaN));
  native.attention(
    out,
    scope.put(q),
    scope.put(k),
    scope.put(v),
    s.start,
    s.tokens,
    s.heads,
    s.kvHeads,
    s.headDim,
    s.capacity,
    s.scale,
    s.window,
  );
  return scope.floats(out, q.length);
}
