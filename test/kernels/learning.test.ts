import assert from 'node:assert/strict';
import { test } from 'node:test';
import { native, NO_BUFFER, type NativeAddon } from '../../kernels/index.js';
import { onEveryIsa } from './every-isa.js';
import { assertSameBits, floats, fromBf16, metadata, random, relativeError, toBf16, weights } from './numbers.js';
import * as reference from './reference.js';
import { scoped } from './scope.js';

type AdamW = Parameters<NativeAddon['adamw']>[5];

const SETTINGS: AdamW = {
  learningRate: 5e-3,
  beta1: 0.9,
  beta2: 0.95,
  epsilon: 1e-5,
  weightDecay: 0.1,
  step: 1,
  gradientScale: 0.5,
  threshold: 0,
  curvature: 0,
};

onEveryIsa(import.meta.url, () => {
  test('argmaxPatterns names the largest logit, the lowest of equals, and never a NaN', () => {
    const next = random(1);
    for (const patterns of [4, 6, 70]) {
      const logits = floats(next, 33 * patterns);
      scoped((scope) => {
        const symbols = scope.room(33);
        native.argmaxPatterns(symbols, scope.put(logits), 33, patterns);
        const expected = Array.from({ length: 33 }, (_, g) => {
          const row = [...logits.slice(g * patterns, (g + 1) * patterns)];
          return row.indexOf(Math.max(...row));
        });
        assert.deepEqual([...scope.bytes(symbols, 33)], expected);
      });
    }
    scoped((scope) => {
      const symbols = scope.room(4);
      const rows = [1, 3, 3, 2, NaN, 1, 2, NaN, NaN, NaN, NaN, NaN, -Infinity, NaN, -5, -5];
      native.argmaxPatterns(symbols, scope.put(Float32Array.from(rows)), 4, 4);
      assert.deepEqual([...scope.bytes(symbols, 4)], [1, 2, 0, 2]);
    });
  });

  test('topTwo keeps the two largest scores, the lower of equals, and a NaN last', () => {
    const scores = floats(random(2), 50 * 4).map((x) => Math.round(x * 4) / 4);
    scoped((scope) => {
      const meta = scope.room(25);
      native.topTwo(meta, scope.put(scores), 50);
      assert.deepEqual(scope.bytes(meta, 25), reference.bestTwo(scores));
      native.topTwo(meta, scope.put(Float32Array.of(NaN, -3, NaN, -2, NaN, NaN, NaN, NaN)), 2);
      assert.equal(scope.bytes(meta, 1)[0], 13 | (4 << 4));
    });
  });

  test('mulBf16 multiplies by bf16, in place or apart', () => {
    for (const n of [1, 15, 100]) {
      const next = random(n);
      const [a, b] = [floats(next, n), weights(next, n)];
      const expected = a.map((x, i) => x * fromBf16(b[i] ?? 0));
      scoped((scope) => {
        const [out, inPlace] = [scope.room(n * 4), scope.put(a)];
        native.mulBf16(out, scope.put(a), scope.put(b), n);
        native.mulBf16(inPlace, inPlace, scope.put(b), n);
        assertSameBits(scope.floats(out, n), expected, 'apart');
        assertSameBits(scope.floats(inPlace, n), expected, 'in place');
      });
    }
  });

  test('select24F32 and keep24F32 keep by position: a kept −0.0 stays, what is pruned is +0.0, be it NaN', () => {
    for (const [n, k] of [
      [1, 8],
      [5, 72],
      [40, 200],
    ] as const) {
      const next = random(k);
      const w = floats(next, n * k).map((x) => (Math.abs(x) < 0.1 ? -0 : x > 0.9 ? NaN : x));
      const meta = metadata(next, (n * k) / 8);
      const kept = new Float32Array(n * k);
      meta.forEach((byte, b) => reference.kept(byte).forEach((i) => (kept[8 * b + i] = w[8 * b + i] ?? 0)));
      scoped((scope) => {
        const [out, x] = [scope.room(n * k * 2), scope.put(w)];
        native.select24F32(out, scope.put(w), scope.put(meta), n, k);
        native.keep24F32(x, scope.put(meta), n, k);
        assertSameBits(scope.words(out, n * k), Uint16Array.from(kept, toBf16), 'bf16');
        assertSameBits(scope.floats(x, n * k), kept, 'f32');
      });
    }
  });

  test('sumOfSquares is the fp64 sum, and scaleBy scales', () => {
    for (const n of [1, 17, 70_001, 200_000]) {
      const x = floats(random(n), n);
      scoped((scope) => {
        const handle = scope.put(x);
        const expected = x.reduce((sum, v) => sum + v * v, 0);
        assert.ok(Math.abs(native.sumOfSquares(handle, n) - expected) < 1e-12 * expected);
        native.scaleBy(handle, 0.3, n);
        assertSameBits(
          scope.floats(handle, n),
          x.map((v) => v * Math.fround(0.3)),
          'scaled',
        );
      });
    }
  });

  const gates = [
    { threshold: 0, curvature: 0 },
    { threshold: 0.4, curvature: 0 },
    { threshold: 0.1, curvature: 0.3 },
  ];
  for (const gate of gates) {
    test(`adamw follows AdamW in fp64 over many steps, gated by ${gate.threshold} + ${gate.curvature} · √v`, () => {
      const n = 1003;
      const next = random(5);
      const start = floats(next, n);
      const expected = { p: Float64Array.from(start), m: new Float64Array(n), v: new Float64Array(n) };
      scoped((scope) => {
        const [p, m, v] = [scope.put(start), scope.room(n * 4), scope.room(n * 4)];
        for (let step = 1; step <= 20; step++) {
          const gradients = floats(next, n).map((g, i) => g * 10 ** (-i % 6));
          const settings = { ...SETTINGS, ...gate, step, learningRate: 5e-3 / step };
          native.adamw(p, scope.put(gradients), m, v, n, settings);
          adamw(expected, gradients, settings);
        }
        assert.ok(relativeError(scope.floats(p, n), expected.p) < 1e-6, 'parameters');
        assert.ok(relativeError(scope.floats(m, n), expected.m) < 1e-6, 'first moments');
        assert.ok(relativeError(scope.floats(v, n), expected.v) < 1e-6, 'second moments');
        const moved = (a: ArrayLike<number>): Float64Array => Float64Array.from(a, (x, i) => x - (start[i] ?? 0));
        assert.ok(relativeError(moved(scope.floats(p, n)), moved(expected.p)) < 1e-4, 'the way travelled');
      });
    });
  }

  test('without momentum no first moment is needed, and it changes nothing', () => {
    const n = 1003;
    const next = random(9);
    const [parameters, gradients] = [Float32Array.from({ length: n }, next), Float32Array.from({ length: n }, next)];
    const after = (withMoment: boolean, given: Partial<AdamW>): Float32Array =>
      scoped((scope) => {
        const [p, v] = [scope.put(parameters), scope.room(n * 4)];
        const m = withMoment ? scope.room(n * 4) : NO_BUFFER;
        for (let s = 1; s <= 2; s++) {
          native.adamw(p, scope.put(gradients), m, v, n, { ...SETTINGS, beta1: 0, step: s, ...given });
        }
        return scope.floats(p, n);
      });
    for (const gate of [{}, { curvature: 0.1 }]) assert.deepEqual(after(false, gate), after(true, gate));
    assert.throws(() => after(false, { beta1: 0.9 }), /adamw: expected firstMoments to name a live buffer/);
  });

  test('what is below the threshold does not move, nor what is as large as its curvature', () => {
    const gate = { weightDecay: 0, gradientScale: 1, beta1: 0, beta2: 0, epsilon: 1e-12 };
    const moved = (gradient: number, given: Partial<AdamW>): number =>
      scoped((scope) => {
        const p = scope.put(Float32Array.of(0));
        native.adamw(p, scope.put(Float32Array.of(gradient)), scope.room(4), scope.room(4), 1, {
          ...SETTINGS,
          ...gate,
          learningRate: 1,
          ...given,
        });
        return scope.floats(p, 1)[0] as number;
      });
    assert.equal(moved(0.5, { threshold: 1.01 }), 0, 'm/√v is 1 where nothing is averaged');
    assert.ok(Math.abs(moved(0.5, { threshold: 0.75 }) + 0.25) < 1e-6);
    assert.ok(Math.abs(moved(-0.5, { threshold: 0.75 }) - 0.25) < 1e-6);
    assert.equal(moved(2, { curvature: 0.6 }), 0);
    assert.ok(Math.abs(moved(0.5, { curvature: 0.6 }) + 0.7) < 1e-6);
  });

  test('results have the same bits on any number of threads', () => {
    const n = 300_000;
    const next = random(6);
    const [start, gradients] = [floats(next, n), floats(next, n)];
    scoped((scope) => {
      const runs = [1, 2, 5].map((threads) => {
        native.setThreads(threads);
        const [p, m, v] = [scope.put(start), scope.put(gradients), scope.put(start.map(Math.abs))];
        native.adamw(p, scope.put(gradients), m, v, n, SETTINGS);
        return { p: scope.floats(p, n), norm: native.sumOfSquares(p, n) };
      });
      native.setThreads(0);
      const [one] = runs;
      assert.ok(one);
      for (const other of runs) {
        assertSameBits(other.p, one.p, 'parameters');
        assert.equal(other.norm, one.norm);
      }
    });
  });

  test('what can’t be right is refused by name', () => {
    scoped((scope) => {
      const [a, b, c, d] = [scope.room(64), scope.room(64), scope.room(64), scope.room(64)];
      const meta = scope.put(Uint8Array.of(4 | (4 << 4), 4 | (5 << 4)));
      assert.throws(
        () => native.argmaxPatterns(a, b, 4, 256),
        /argmaxPatterns: expected patterns of at most the number of symbols = 255/,
      );
      assert.throws(() => native.topTwo(a, b, 3), /topTwo: expected groups to be even but received 3/);
      assert.throws(() => native.mulBf16(a, a, a, 16), /mulBf16: expected out and b to be apart/);
      assert.throws(
        () => native.select24F32(a, b, meta, 1, 12),
        /select24F32: expected k to be a multiple of 8 but received 12/,
      );
      assert.throws(() => native.select24F32(a, b, meta, 2, 8), {
        name: 'RangeError',
        message:
          /select24F32: expected nibbles idx0 \| idx1 << 2 with idx0 < idx1 in meta but received another in row 1/,
      });
      assert.throws(() => native.keep24F32(a, meta, 1, 16), /keep24F32: expected nibbles/);
      assert.throws(
        () => native.sumOfSquares(a, 17),
        /sumOfSquares: expected x of at least n·4 = 68 bytes but received 64/,
      );
      assert.throws(() => native.scaleBy(a, Infinity, 16), /scaleBy: expected factor to be finite/);
      const step = (change: Record<string, unknown>): void =>
        native.adamw(a, b, c, d, 16, { ...SETTINGS, ...change } as AdamW);
      step({});
      assert.throws(
        () => step({ step: 0 }),
        /adamw: expected settings.step to be an integer of at least 1 but received 0/,
      );
      assert.throws(
        () => step({ step: 1.5 }),
        /expected settings.step to be an integer of at least 1 but received 1.5/,
      );
      assert.throws(() => step({ beta1: 1 }), /expected settings.beta1 in \[0, 1\) but received 1/);
      assert.throws(() => step({ epsilon: 0 }), /expected settings.epsilon above 0 but received 0/);
      assert.throws(() => step({ threshold: -1 }), /expected settings.threshold to be at least 0 but received -1/);
      assert.throws(() => step({ curvature: -1 }), /expected settings.curvature to be at least 0 but received -1/);
      assert.throws(() => step({ learningRate: NaN }), /expected settings.learningRate to be finite/);
      assert.throws(() => step({ weightDecay: undefined }), {
        name: 'TypeError',
        message: 'adamw: expected settings.weightDecay to be a number but received undefined',
      });
      assert.throws(
        () => native.adamw(a, b, c, d, 16, 7 as unknown as AdamW),
        /expected settings to be an object but received a number/,
      );
      assert.throws(
        () => native.adamw(a, a, c, d, 16, SETTINGS),
        /adamw: expected parameters and gradients to be apart/,
      );
    });
  });
});

/** One step of AdamW with decoupled decay and bias correction, gradients scaled first. */
function adamw(state: { p: Float64Array; m: Float64Array; v: Float64Array }, gradients: Float32Array, s: AdamW): void {
  gradients.forEach((gradient, i) => {
    const g = gradient * s.gradientScale;
    const m = s.beta1 * (state.m[i] ?? 0) + (1 - s.beta1) * g;
    const v = s.beta2 * (state.v[i] ?? 0) + (1 - s.beta2) * g * g;
    state.m[i] = m;
    state.v[i] = v;
    const [first, second] = [m / (1 - s.beta1 ** s.step), v / (1 - s.beta2 ** s.step)];
    const decayed = (state.p[i] ?? 0) * (1 - s.learningRate * s.weightDecay);
    const ratio = first / (Math.sqrt(second) + s.epsilon);
    const threshold = s.threshold + s.curvature * Math.sqrt(second);
    state.p[i] = decayed - s.learningRate * (ratio - Math.max(-threshold, Math.min(threshold, ratio)));
  });
}
