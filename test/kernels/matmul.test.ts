import assert from 'node:assert/strict';
import { test } from 'node:test';
import { native, type Isa } from '../../kernels/index.js';
import { onEveryIsa } from './every-isa.js';
import { assertSameBits, floats, metadata, random, relativeError, roundedToBf16, weights } from './numbers.js';
import * as reference from './reference.js';
import { scoped } from './scope.js';

type Precision = 'bf16' | 'f32';

/** From here on the weights are packed into panels: another order of summation. */
const MANY_TOKENS = 65;

/** T, N, K: every tail of tokens, rows and columns, and a K long enough to be cut. */
const SHAPES: readonly (readonly [number, number, number])[] = [
  [1, 1, 8],
  [1, 9, 64],
  [2, 16, 72],
  [3, 7, 136],
  [4, 33, 40],
  [5, 8, 256],
  [6, 12, 200],
  [7, 20, 1000],
  [13, 5, 2888],
  [70, 24, 328],
  [65, 1, 8],
  [67, 45, 2120],
  [81, 77, 72],
  [130, 96, 1480],
];

const THREADS = [1, 2, 3, 8];

/** Tokens that make an x of 3400 columns so large that a task has several panels of weights at a time. */
const LARGE_X = 640;

const TOLERANCE = 1e-6;

onEveryIsa(import.meta.url, (isa) => {
  for (const precision of ['bf16', 'f32'] as const) {
    test(`matmul in ${precision} equals the fp64 product of what it is given`, () => {
      for (const [tokens, n, k] of SHAPES) checkDense(isa, precision, tokens, n, k);
      for (const k of [1, 3, 17, 31, 33, 63]) {
        checkDense(isa, precision, 3, 5, k);
        checkDense(isa, precision, MANY_TOKENS, 35, k);
      }
    });

    test(`matmul24 in ${precision} of compacted weights equals matmul of selected weights to fp32 rounding`, () => {
      for (const [tokens, n, k] of SHAPES) checkSparse(precision, tokens, n, k);
      for (let tokens = 1; tokens <= 80; tokens++) checkSparse(precision, tokens, 3, 152);
    });

    test(`a row of a product in ${precision} has the same bits for every T below ${MANY_TOKENS}, for every T from there on, and for every number of threads`, () => {
      for (const [n, k] of [
        [40, 456],
        [300, 3400],
      ] as const) {
        checkIndependence(precision, n, k, 23, [1, 2, 3, 4, 5, 6, 11], THREADS);
        checkIndependence(precision, n, k, 142, [MANY_TOKENS, 71, 139], THREADS);
      }
      checkIndependence(precision, 330, 3400, LARGE_X, [320], [3]);
    });
  }

  test('a bf16 product differs from the f32 one exactly where the instruction set multiplies bf16', () => {
    const difference = relativeError(product('bf16', 5), product('f32', 5));
    assert.equal(difference > 1e-4, isa === 'avx512', `difference ${difference}`);
  });

  test('infinities and NaNs of the activations reach the output row they belong to, and no other', () => {
    scoped((scope) => {
      const x = new Float32Array(3 * 64).fill(1);
      x[64 + 5] = Infinity;
      x[128 + 7] = NaN;
      const y = scope.room(3 * 4 * 4);
      native.matmul(y, scope.put(x), scope.put(new Uint16Array(4 * 64).fill(0x3f80)), 3, 4, 64);
      const rows = scope.floats(y, 12);
      assert.deepEqual([...rows.slice(0, 4)], [64, 64, 64, 64]);
      assert.deepEqual([...rows.slice(4, 8)], [Infinity, Infinity, Infinity, Infinity]);
      assert.ok(rows.slice(8).every(Number.isNaN));
    });
  });

  test('matmul24 gives what matmul of selected weights gives, where activations or weights are not finite', () => {
    checkNonFinite(5, 19, 136);
    checkNonFinite(MANY_TOKENS, 45, 648);
  });

  test('subnormal activations and weights count for as much in matmul24 as in matmul', () => {
    scoped((scope) => {
      const [n, k] = [8, 64];
      const x = new Float32Array(k).fill(2 ** -120);
      const dense = new Uint16Array(n * k).fill(0x0040); // 2⁻¹²⁷
      dense.fill(0x3f80, k);
      x[7] = 2 ** -140;
      const [w, m] = [scope.put(dense), scope.put(metadata(random(4), (n * k) / 8))];
      const [packed, selected] = [scope.room((n * k * 9) / 8), scope.room(n * k * 2)];
      const [sparse, masked] = [scope.room(n * 4), scope.room(n * 4)];
      native.compress24(packed, w, m, n, k);
      native.select24(selected, w, m, n, k);
      for (const precision of ['bf16', 'f32'] as const) {
        native.setPrecision(precision);
        native.matmul24(sparse, scope.put(x), packed, 1, n, k);
        native.matmul(masked, scope.put(x), selected, 1, n, k);
        assert.ok(relativeError(scope.floats(sparse, n), scope.floats(masked, n)) < TOLERANCE);
      }
    });
  });
});

function checkNonFinite(tokens: number, n: number, k: number): void {
  scoped((scope) => {
    const next = random(9);
    const [x, dense] = [floats(next, tokens * k), weights(next, n * k)];
    [Infinity, -Infinity, NaN].forEach((bad, t) => (x[t * k + 61 * t] = bad));
    [0x7f80, 0xff80, 0x7fc1].forEach((bad, r) => (dense[3 * r * k + 50 * r] = bad));
    const [w, m] = [scope.put(dense), scope.put(metadata(next, (n * k) / 8))];
    const [packed, selected] = [scope.room((n * k * 9) / 8), scope.room(n * k * 2)];
    const [sparse, masked] = [scope.room(tokens * n * 4), scope.room(tokens * n * 4)];
    native.compress24(packed, w, m, n, k);
    native.select24(selected, w, m, n, k);
    native.matmul24(sparse, scope.put(x), packed, tokens, n, k);
    native.matmul(masked, scope.put(x), selected, tokens, n, k);
    assert.deepEqual(kinds(scope.floats(sparse, tokens * n)), kinds(scope.floats(masked, tokens * n)));
  });
}

/** Bit patterns of finite numbers do not matter here. */
function kinds(row: Float32Array): (number | string)[] {
  return Array.from(row, (y) => (Number.isFinite(y) ? 'finite' : y));
}

function checkDense(isa: Isa, precision: Precision, tokens: number, n: number, k: number): void {
  scoped((scope) => {
    const next = random(tokens * 1000 + k);
    const x = floats(next, tokens * k);
    const w = weights(next, n * k);
    const seen = isa === 'avx512' && precision === 'bf16' ? roundedToBf16(x) : x;
    native.setPrecision(precision);
    const y = scope.room(tokens * n * 4);
    native.matmul(y, scope.put(x), scope.put(w), tokens, n, k);
    const error = relativeError(scope.floats(y, tokens * n), reference.matmul(seen, w, tokens, n, k));
    assert.ok(error < TOLERANCE, `T=${tokens} N=${n} K=${k}: error ${error}`);
  });
}

function checkSparse(precision: Precision, tokens: number, n: number, k: number): void {
  scoped((scope) => {
    const next = random(tokens * 1000 + k + 1);
    const x = scope.put(floats(next, tokens * k));
    const dense = weights(next, n * k);
    const meta = metadata(next, (n * k) / 8);
    const [w, m] = [scope.put(dense), scope.put(meta)];
    const [packed, selected] = [scope.room((n * k * 9) / 8), scope.room(n * k * 2)];
    native.compress24(packed, w, m, n, k);
    native.select24(selected, w, m, n, k);

    native.setPrecision(precision);
    const [sparse, masked] = [scope.room(tokens * n * 4), scope.room(tokens * n * 4)];
    native.matmul24(sparse, x, packed, tokens, n, k);
    native.matmul(masked, x, selected, tokens, n, k);
    const error = relativeError(scope.floats(sparse, tokens * n), scope.floats(masked, tokens * n));
    assert.ok(error < TOLERANCE, `T=${tokens} N=${n} K=${k}: error ${error}`);
  });
}

/** Rows of a product of `tokens` beside the same rows in products of `counts`. */
function checkIndependence(
  precision: Precision,
  n: number,
  k: number,
  tokens: number,
  counts: readonly number[],
  threadCounts: readonly number[],
): void {
  scoped((scope) => {
    const next = random(k);
    const x = floats(next, tokens * k);
    const w = scope.put(weights(next, n * k));
    const m = scope.put(metadata(next, (n * k) / 8));
    const packed = scope.room((n * k * 9) / 8);
    native.compress24(packed, w, m, n, k);
    native.setPrecision(precision);
    const run = (sparse: boolean, first: number, count: number): Float32Array => {
      const y = scope.room(count * n * 4);
      const part = scope.put(x.slice(first * k, (first + count) * k));
      if (sparse) native.matmul24(y, part, packed, count, n, k);
      else native.matmul(y, part, w, count, n, k);
      return scope.floats(y, count * n);
    };
    for (const sparse of [false, true]) {
      native.setThreads(1);
      const whole = run(sparse, 0, tokens);
      for (const threads of threadCounts) {
        native.setThreads(threads);
        assertSameBits(run(sparse, 0, tokens), whole, `${threads} threads, sparse ${sparse}`);
        for (const count of counts) {
          for (let first = 0; first + count <= tokens; first += count) {
            const rows = whole.slice(first * n, (first + count) * n);
            assertSameBits(run(sparse, first, count), rows, `tokens ${first}+${count}, sparse ${sparse}`);
          }
        }
      }
    }
    native.setThreads(0);
  });
}

function product(precision: Precision, seed: number): Float32Array {
  return scoped((scope) => {
    const next = random(seed);
    const y = scope.room(2 * 8 * 4);
    native.setPrecision(precision);
    native.matmul(y, scope.put(floats(next, 2 * 64)), scope.put(weights(next, 8 * 64)), 2, 8, 64);
    return scope.floats(y, 16);
  });
}
