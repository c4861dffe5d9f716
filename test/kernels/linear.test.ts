import assert from 'node:assert/strict';
import { test } from 'node:test';
import { native, NO_BUFFER, type Handle, type Isa } from '../../kernels/index.js';
import { onEveryIsa } from './every-isa.js';
import * as gradients from './gradients.js';
import { assertSameBits, floats, fromBf16, random, relativeError, roundedToBf16, weights } from './numbers.js';
import { scoped, type Scope } from './scope.js';

type Precision = 'bf16' | 'f32';
type WeightType = 'bf16' | 'f32';

/** rows, N, K: all tails, more of each than a packed block holds, and a single element. */
const SHAPES: readonly (readonly [number, number, number])[] = [
  [1, 1, 1],
  [3, 5, 7],
  [13, 33, 40],
  [25, 70, 129],
  [7, 16, 900],
  [700, 9, 17],
  [5, 4200, 12],
  [4200, 5, 12],
  [9, 6, 4200],
];

const TOLERANCE = 3e-6;

onEveryIsa(import.meta.url, (isa) => {
  for (const precision of ['bf16', 'f32'] as const) {
    for (const type of ['bf16', 'f32'] as const) {
      test(`a linear layer and its gradients in ${precision} with ${type} weights equal the fp64 products of what they are given`, () => {
        for (const [rows, n, k] of SHAPES) check(isa, precision, type, rows, n, k);
      });
    }
  }

  test('the gradients are those of Σ y·dy, by finite differences', () => {
    const [rows, n, k] = [3, 4, 5];
    const next = random(11);
    const [x, w, dy] = [floats(next, rows * k), floats(next, n * k), floats(next, rows * n)];
    scoped((scope) => {
      native.setPrecision('f32');
      const { dx, dw } = run(scope, x, scope.put(w), 'f32', dy, rows, n, k);
      const loss = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
        gradients.dot(gradients.linear(a, b, rows, n, k), dy);
      assert.ok(
        relativeError(
          dx,
          gradients.numericGradient((a) => loss(a, w), x),
        ) < 1e-6,
      );
      assert.ok(
        relativeError(
          dw,
          gradients.numericGradient((b) => loss(x, b), w),
        ) < 1e-6,
      );
    });
  });

  test('accumulating adds to what is there', () => {
    const [rows, n, k] = [20, 30, 50];
    const next = random(12);
    const [x, w, dy] = [floats(next, rows * k), floats(next, n * k), floats(next, rows * n)];
    const [dx0, dw0] = [floats(next, rows * k), floats(next, n * k)];
    scoped((scope) => {
      native.setPrecision('f32');
      const [dx, dw] = [scope.put(dx0), scope.put(dw0)];
      native.linearBackwardInput(dx, scope.put(dy), scope.put(w), 'f32', rows, n, k, true);
      native.linearBackwardWeight(dw, scope.put(dy), scope.put(x), rows, n, k, true);
      const plus = (a: Float64Array, b: Float32Array): Float64Array => a.map((value, i) => value + (b[i] ?? NaN));
      const expected = gradients.linearInput(dy, w, rows, n, k);
      assert.ok(relativeError(scope.floats(dx, rows * k), plus(expected, dx0)) < TOLERANCE);
      const expectedW = gradients.linearWeight(dy, x, rows, n, k);
      assert.ok(relativeError(scope.floats(dw, n * k), plus(expectedW, dw0)) < TOLERANCE);
    });
  });

  test('results have the same bits on any number of threads, and a row’s for any number of rows', () => {
    const [rows, n, k] = [130, 90, 1000];
    const next = random(13);
    const [x, w, dy] = [floats(next, rows * k), weights(next, n * k), floats(next, rows * n)];
    scoped((scope) => {
      for (const precision of ['bf16', 'f32'] as const) {
        native.setPrecision(precision);
        const runs = [1, 2, 5].map((threads) => {
          native.setThreads(threads);
          return run(scope, x, scope.put(w), 'bf16', dy, rows, n, k);
        });
        const [one] = runs;
        assert.ok(one);
        for (const other of runs) {
          assertSameBits(other.y, one.y, 'y');
          assertSameBits(other.dx, one.dx, 'dx');
          assertSameBits(other.dw, one.dw, 'dw');
        }
        const first = run(scope, x.slice(0, 7 * k), scope.put(w), 'bf16', dy.slice(0, 7 * n), 7, n, k);
        assertSameBits(first.y, one.y.slice(0, 7 * n), 'y of fewer rows');
        assertSameBits(first.dx, one.dx.slice(0, 7 * k), 'dx of fewer rows');
      }
      native.setThreads(0);
    });
  });

  test('a NaN of one row stays in that row', () => {
    const [rows, n, k] = [20, 40, 33];
    const x = floats(random(14), rows * k);
    x[5 * k + 32] = NaN;
    scoped((scope) => {
      const y = scope.room(rows * n * 4);
      native.linear(y, scope.put(x), scope.put(new Float32Array(n * k).fill(1)), 'f32', rows, n, k);
      scope.floats(y, rows * n).forEach((value, i) => assert.equal(Number.isNaN(value), Math.floor(i / n) === 5));
    });
  });

  test('what can’t be right is refused by name', () => {
    scoped((scope) => {
      const [y, x, w] = [scope.room(4 * 6 * 4), scope.room(4 * 8 * 4), scope.room(6 * 8 * 2)];
      assert.throws(() => native.linear(y, x, w, 'f32', 4, 6, 8), {
        name: 'RangeError',
        message: 'linear: expected w of at least N·K·4 = 192 bytes but received 96',
      });
      assert.throws(() => native.linear(y, x, w, 'f16', 4, 6, 8), /linear: expected type to be 'bf16' or 'f32'/);
      assert.throws(() => native.linear(y, y, w, 'bf16', 4, 6, 6), /linear: expected y and x to be apart/);
      assert.throws(() => native.linear(NO_BUFFER, x, w, 'bf16', 4, 6, 8), /linear: expected y to name a live buffer/);
      assert.throws(() => native.linearBackwardInput(x, y, w, 'bf16', 4, 6, 8, 1 as unknown as boolean), {
        name: 'TypeError',
        message: 'linearBackwardInput: expected accumulate to be a boolean but received a number',
      });
      assert.throws(() => native.linearBackwardWeight(w, y, x, 4, 6, 8, false), /expected dw of at least N·K·4 = 192/);
      assert.throws(
        () => native.linearBackwardWeight(w, y, x, 0, 6, 8, false),
        /expected rows to be an integer of at least 1/,
      );
    });
  });
});

function check(isa: Isa, precision: Precision, type: WeightType, rows: number, n: number, k: number): void {
  const next = random(rows * 7 + n * 3 + k);
  const [x, dy] = [floats(next, rows * k), floats(next, rows * n)];
  const bits = weights(next, n * k);
  const wide = floats(next, n * k);
  const rounds = isa === 'avx512' && precision === 'bf16';
  const seen = (a: Float32Array): ArrayLike<number> => (rounds ? roundedToBf16(a) : a);
  const w = type === 'bf16' ? Float64Array.from(bits, fromBf16) : seen(wide);
  scoped((scope) => {
    native.setPrecision(precision);
    const handle = type === 'bf16' ? scope.put(bits) : scope.put(wide);
    const { y, dx, dw } = run(scope, x, handle, type, dy, rows, n, k);
    const errors = {
      y: relativeError(y, gradients.linear(seen(x), w, rows, n, k)),
      dx: relativeError(dx, gradients.linearInput(seen(dy), w, rows, n, k)),
      dw: relativeError(dw, gradients.linearWeight(seen(dy), seen(x), rows, n, k)),
    };
    for (const [name, error] of Object.entries(errors)) {
      assert.ok(error < TOLERANCE, `${name} of rows=${rows} N=${n} K=${k}: error ${error}`);
    }
  });
}

function run(
  scope: Scope,
  x: Float32Array,
  w: Handle,
  type: WeightType,
  dy: Float32Array,
  rows: number,
  n: number,
  k: number,
): { y: Float32Array; dx: Float32Array; dw: Float32Array } {
  const poisoned = (length: number): Handle => scope.put(new Float32Array(length).fill(NaN));
  const [y, dx, dw] = [poisoned(rows * n), poisoned(rows * k), poisoned(n * k)];
  const [input, gradient] = [scope.put(x), scope.put(dy)];
  native.linear(y, input, w, type, rows, n, k);
  native.linearBackwardInput(dx, gradient, w, type, rows, n, k, false);
  native.linearBackwardWeight(dw, gradient, input, rows, n, k, false);
  return { y: scope.floats(y, rows * n), dx: scope.floats(dx, rows * k), dw: scope.floats(dw, n * k) };
}
