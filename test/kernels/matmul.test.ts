import assert from 'node:assert/strict';
import { test } from 'node:test';
import { native, type Isa } from '../../kernels/index.js';
import { onEveryIsa } from './every-isa.js';
import { assertSameBits, floats, metadata, random, relativeError, roundedToBf16, weights } from './numbers.js';
import * as reference from './reference.js';
import { scoped } from './scope.js';

type Precision = 'bf16' | 'f32';

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
];

const TOLERANCE = 1e-6;

onEveryIsa(import.meta.url, (isa) => {
  for (const precision of ['bf16', 'f32'] as const) {
    test(`matmul in ${precision} equals the fp64 product of what it is given`, () => {
      for (const [tokens, n, k] of SHAPES) checkDense(isa, precision, tokens, n, k);
      for (const k of [1, 3, 17, 31, 33, 63]) checkDense(isa, precision, 3, 5, k);
    });

    test(`matmul24 in ${precision} of compacted weights equals matmul of selected weights to fp32 rounding`, () => {
      for (const [tokens, n, k] of SHAPES) checkSparse(precision, tokens, n, k);
      for (let tokens = 1; tokens <= 70; tokens++) checkSparse(precision, tokens, 3, 152);
    });

    test(`a row of a product in ${precision} has the same bits for every T and every number of threads`, () => {
      for (const [n, k] of [
        [40, 456],
        [300, 3400],
      ] as const) {
        checkIndependence(precision, n, k);
      }
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
});

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
    const [values, selected] = [scope.room(n * k), scope.room(n * k * 2)];
    native.compress24(values, w, m, n, k);
    native.select24(selected, w, m, n, k);
    assertSameBits(scope.words(values, (n * k) / 2), reference.compress24(dense, meta), 'compact values');
    assertSameBits(scope.words(selected, n * k), reference.select24(dense, meta), 'selected weights');

    native.setPrecision(precision);
    const [sparse, masked] = [scope.room(tokens * n * 4), scope.room(tokens * n * 4)];
    native.matmul24(sparse, x, values, m, tokens, n, k);
    native.matmul(masked, x, selected, tokens, n, k);
    const error = relativeError(scope.floats(sparse, tokens * n), scope.floats(masked, tokens * n));
    assert.ok(error < TOLERANCE, `T=${tokens} N=${n} K=${k}: error ${error}`);
  });
}

function checkIndependence(precision: Precision, n: number, k: number): void {
  const tokens = 23;
  scoped((scope) => {
    const next = random(k);
    const x = floats(next, tokens * k);
    const w = scope.put(weights(next, n * k));
    const m = scope.put(metadata(next, (n * k) / 8));
    const values = scope.room(n * k);
    native.compress24(values, w, m, n, k);
    native.setPrecision(precision);
    const run = (sparse: boolean, first: number, count: number): Float32Array => {
      const y = scope.room(count * n * 4);
      const part = scope.put(x.slice(first * k, (first + count) * k));
      if (sparse) native.matmul24(y, part, values, m, count, n, k);
      else native.matmul(y, part, w, count, n, k);
      return scope.floats(y, count * n);
    };
    for (const sparse of [false, true]) {
      native.setThreads(1);
      const whole = run(sparse, 0, tokens);
      for (const threads of [1, 2, 3, 8]) {
        native.setThreads(threads);
        assertSameBits(run(sparse, 0, tokens), whole, `${threads} threads, sparse ${sparse}`);
        for (const count of [1, 2, 3, 4, 5, 6, 11]) {
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
