import assert from 'node:assert/strict';
import { test } from 'node:test';
import { native, type Handle } from '../../kernels/index.js';
import { onEveryIsa } from './every-isa.js';
import * as gradients from './gradients.js';
import type { BatchShape } from './gradients.js';
import { assertSameBits, floats, random, relativeError, type Random } from './numbers.js';
import { scoped, type Scope } from './scope.js';

const BASE: BatchShape = { batch: 1, tokens: 5, heads: 4, kvHeads: 2, headDim: 16, scale: 0.25, window: 0 };

const CASES: readonly Partial<BatchShape>[] = [
  {},
  { tokens: 1 },
  { batch: 3, tokens: 64 },
  { tokens: 130 },
  { tokens: 300, heads: 2, kvHeads: 1 },
  { tokens: 330, heads: 1, kvHeads: 1, window: 290 },
  { tokens: 140, window: 1 },
  { tokens: 140, window: 7 },
  { tokens: 140, window: 1000 },
  { batch: 2, tokens: 70, heads: 9, kvHeads: 3, headDim: 64, scale: 0.125 },
  { tokens: 70, heads: 1, kvHeads: 1, headDim: 6 },
  { tokens: 66, heads: 2, kvHeads: 2, headDim: 20 },
  { tokens: 20, heads: 2, kvHeads: 1, headDim: 128 },
];

interface Inputs {
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
  readonly dout: Float32Array;
}

interface Results {
  readonly out: Float32Array;
  readonly lse: Float32Array;
  readonly dq: Float32Array;
  readonly dk: Float32Array;
  readonly dv: Float32Array;
}

onEveryIsa(import.meta.url, () => {
  test('the fp64 gradient that the kernels are compared with agrees with finite differences', () => {
    const shape = { ...BASE, tokens: 6, heads: 2, kvHeads: 1, headDim: 4, window: 4 };
    const { q, k, v, dout } = inputs(shape, random(1));
    const { dq, dk, dv } = gradients.attention(q, k, v, dout, shape);
    const loss = (a: ArrayLike<number>, b: ArrayLike<number>, c: ArrayLike<number>): number =>
      gradients.dot(gradients.attention(a, b, c, dout, shape).out, dout);
    assert.ok(
      relativeError(
        dq,
        gradients.numericGradient((x) => loss(x, k, v), q),
      ) < 1e-8,
    );
    assert.ok(
      relativeError(
        dk,
        gradients.numericGradient((x) => loss(q, x, v), k),
      ) < 1e-8,
    );
    assert.ok(
      relativeError(
        dv,
        gradients.numericGradient((x) => loss(q, k, x), v),
      ) < 1e-8,
    );
  });

  for (const change of CASES) {
    test(`attention and its gradients in f32 equal the fp64 ones: ${JSON.stringify(change)}`, () => {
      const shape = { ...BASE, ...change };
      const given = inputs(shape, random(2));
      native.setPrecision('f32');
      const results = scoped((scope) => run(scope, given, shape));
      const expected = gradients.attention(given.q, given.k, given.v, given.dout, shape);
      for (const name of ['out', 'lse', 'dq', 'dk', 'dv'] as const) {
        const error = relativeError(results[name], expected[name]);
        // With window 1 the scores' gradients vanish: the norm of the error itself is compared.
        assert.ok(error < 1e-5, `${name}: error ${error}`);
      }
    });
  }

  test('in bf16 they agree to bf16 rounding', () => {
    const shape = { ...BASE, batch: 2, tokens: 200, headDim: 64, scale: 0.125 };
    const given = inputs(shape, random(3));
    native.setPrecision('bf16');
    const results = scoped((scope) => run(scope, given, shape));
    const expected = gradients.attention(given.q, given.k, given.v, given.dout, shape);
    for (const name of ['out', 'lse', 'dq', 'dk', 'dv'] as const) {
      const error = relativeError(results[name], expected[name]);
      assert.ok(error < 1e-2, `${name}: error ${error}`);
    }
  });

  test('sequences of a batch don’t see each other', () => {
    const shape = { ...BASE, batch: 3, tokens: 70 };
    const given = inputs(shape, random(4));
    scoped((scope) => {
      const whole = run(scope, given, shape);
      const part = (a: Float32Array): Float32Array => a.slice(a.length / 3, (2 * a.length) / 3);
      const middle = { q: part(given.q), k: part(given.k), v: part(given.v), dout: part(given.dout) };
      const alone = run(scope, middle, { ...shape, batch: 1 });
      for (const name of ['out', 'lse', 'dq', 'dk', 'dv'] as const)
        assertSameBits(alone[name], part(whole[name]), name);
    });
  });

  test('results have the same bits on any number of threads', () => {
    const shape = { ...BASE, batch: 2, tokens: 100, heads: 6, headDim: 64, window: 50 };
    const given = inputs(shape, random(5));
    scoped((scope) => {
      const runs = [1, 2, 5].map((threads) => {
        native.setThreads(threads);
        return run(scope, given, shape);
      });
      native.setThreads(0);
      const [one] = runs;
      assert.ok(one);
      for (const other of runs) {
        for (const name of ['out', 'lse', 'dq', 'dk', 'dv'] as const) assertSameBits(other[name], one[name], name);
      }
    });
  });

  test('scores far apart keep everything finite', () => {
    const shape = { ...BASE, tokens: 40, heads: 1, kvHeads: 1, scale: 1 };
    const given = inputs(shape, random(6));
    const far = { ...given, q: given.q.map((x) => x * 1e3), k: given.k.map((x) => x * 1e3) };
    const results = scoped((scope) => run(scope, far, shape));
    for (const values of Object.values(results) as Float32Array[]) assert.ok(values.every(Number.isFinite));
  });

  test('what can’t be right is refused by name', () => {
    scoped((scope) => {
      const room = scope.room(4096);
      const [q, k, v, lse] = [scope.room(4096), scope.room(4096), scope.room(4096), scope.room(4096)];
      const forward = (heads: number, kvHeads: number, window: number): void =>
        native.attentionForward(room, lse, q, k, v, 1, 4, heads, kvHeads, 16, 1, window);
      assert.throws(
        () => forward(3, 2, 0),
        /attentionForward: expected heads to be a multiple of kvHeads but received 3 and 2/,
      );
      assert.throws(() => forward(2, 2, -1), /attentionForward: expected window to be an integer of at least 0/);
      assert.throws(() => forward(32, 2, 0), /expected out of at least B·T·H·hd·4 = 8192 bytes but received 4096/);
      assert.throws(
        () => native.attentionForward(q, lse, q, k, v, 1, 4, 2, 2, 16, 1, 0),
        /expected out and q to be apart/,
      );
      assert.throws(
        () => native.attentionBackward(room, k, v, q, q, lse, q, k, v, 1, 4, 2, 2, 16, 1, 0),
        /attentionBackward: expected dk and k to be apart/,
      );
    });
  });
});

function inputs(s: BatchShape, next: Random): Inputs {
  const rows = s.batch * s.tokens * s.headDim;
  const [q, dout] = [floats(next, rows * s.heads).map((x) => x * 3), floats(next, rows * s.heads)];
  return { q, dout, k: floats(next, rows * s.kvHeads), v: floats(next, rows * s.kvHeads) };
}

function run(scope: Scope, given: Inputs, s: BatchShape): Results {
  const poisoned = (like: Float32Array): Handle => scope.put(new Float32Array(like.length).fill(NaN));
  const [q, k, v, dout] = [scope.put(given.q), scope.put(given.k), scope.put(given.v), scope.put(given.dout)];
  const [out, dq, dk, dv] = [poisoned(given.q), poisoned(given.q), poisoned(given.k), poisoned(given.v)];
  const lse = scope.room(s.batch * s.heads * s.tokens * 4);
  const shape = [s.batch, s.tokens, s.heads, s.kvHeads, s.headDim, s.scale, s.window] as const;
  native.attentionForward(out, lse, q, k, v, ...shape);
  native.attentionBackward(dq, dk, dv, dout, out, lse, q, k, v, ...shape);
  return {
    out: scope.floats(out, given.q.length),
    lse: scope.floats(lse, s.batch * s.heads * s.tokens),
    dq: scope.floats(dq, given.q.length),
    dk: scope.floats(dk, given.k.length),
    dv: scope.floats(dv, given.v.length),
  };
}
