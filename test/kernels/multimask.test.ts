import assert from 'node:assert/strict';
import { test } from 'node:test';
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import { onEveryIsa } from './every-isa.js';
import { assertSameBits, floats, metadata, random, relativeError, weights } from './numbers.js';
import * as reference from './reference.js';
import { scoped, type Scope } from './scope.js';

const SHAPES: readonly (readonly [number, number, number])[] = [
  [1, 1, 8],
  [2, 9, 64],
  [3, 8, 72],
  [4, 13, 136],
  [5, 17, 1000],
  [9, 24, 320],
];

onEveryIsa(import.meta.url, () => {
  for (const precision of ['bf16', 'f32'] as const) {
    test(`rows in ${precision} of codes, of compacted copies and dense ones equal matmul of selected weights`, () => {
      for (const [tokens, n, k] of SHAPES) {
        scoped((scope) => {
          native.setPrecision(precision);
          const batch = makeBatch(scope, tokens, n, k);
          const error = relativeError(batch.masked(0, tokens), batch.selected());
          assert.ok(error < 1e-6, `T=${tokens} N=${n} K=${k}: error ${error}`);
        });
      }
    });

    test(`a row in ${precision} has the same bits in every batch and on any number of threads`, () => {
      scoped((scope) => {
        native.setPrecision(precision);
        const [tokens, n, k] = [9, 300, 456];
        const batch = makeBatch(scope, tokens, n, k);
        native.setThreads(1);
        const whole = batch.masked(0, tokens);
        for (const threads of [1, 2, 3, 8]) {
          native.setThreads(threads);
          for (const count of [1, 2, 3, 4, 9]) {
            for (let first = 0; first + count <= tokens; first += count) {
              const rows = whole.slice(first * n, (first + count) * n);
              assertSameBits(batch.masked(first, count), rows, `${threads} threads, tokens ${first}+${count}`);
            }
          }
        }
        native.setThreads(0);
      });
    });
  }

  test('infinities and NaNs of the activations and the weights give what matmul of selected weights gives', () => {
    scoped((scope) => {
      const [tokens, n, k] = [5, 16, 136];
      const x = floats(random(5), tokens * k);
      [Infinity, -Infinity, NaN].forEach((bad, t) => (x[t * k + 41 * t] = bad));
      const dense = weights(random(6), n * k);
      dense[3] = 0x7f80;
      dense[2 * k + 7] = 0x7fc0;
      const batch = makeBatch(scope, tokens, n, k, x, dense);
      assert.deepEqual(kinds(batch.masked(0, tokens)), kinds(batch.selected()));
    });
  });

  test('a mask of another size is refused, whatever it is', () => {
    scoped((scope) => {
      const [y, x, w] = [scope.room(32), scope.room(256), scope.room(1024)];
      const message =
        /^matmulMasked: expected masks of exactly N·K\/8 = 64 bytes \(codes24\) or packedBytes\(N, K\) = 576 \(compress24\) but received/;
      for (const bytes of [63, 65, 575, 577]) {
        const masks = Float64Array.of(scope.room(bytes));
        assert.throws(() => native.matmulMasked(y, x, w, masks, 1, 8, 64), { name: 'RangeError', message });
      }
    });
  });
});

interface Batch {
  masked(first: number, count: number): Float32Array;
  /** Each row by matmul of its selected weights. */
  selected(): Float32Array;
}

/** Masks in turn: codes, a compacted copy, none. */
function makeBatch(
  scope: Scope,
  tokens: number,
  n: number,
  k: number,
  x = floats(random(tokens * 1000 + k), tokens * k),
  dense = weights(random(k), n * k),
): Batch {
  const next = random(tokens + n);
  const w = scope.put(dense);
  const metas = Array.from({ length: tokens }, () => metadata(next, (n * k) / 8));
  const masks = metas.map((meta, t): Handle => {
    if (t % 3 === 2) return NO_BUFFER;
    const mask = scope.room(t % 3 === 0 ? (n * k) / 8 : (n * k * 9) / 8);
    if (t % 3 === 0) native.codes24(mask, scope.put(meta), n, k);
    else native.compress24(mask, w, scope.put(meta), n, k);
    return mask;
  });
  return {
    masked: (first, count) => {
      const y = scope.room(count * n * 4);
      const rows = scope.put(x.slice(first * k, (first + count) * k));
      native.matmulMasked(y, rows, w, Float64Array.from(masks.slice(first, first + count)), count, n, k);
      return scope.floats(y, count * n);
    },
    selected: () => {
      const out = new Float32Array(tokens * n);
      metas.forEach((meta, t) => {
        const y = scope.room(n * 4);
        const kept = t % 3 === 2 ? dense : reference.select24(dense, meta);
        native.matmul(y, scope.put(x.slice(t * k, (t + 1) * k)), scope.put(kept), 1, n, k);
        out.set(scope.floats(y, n), t * n);
      });
      return out;
    },
  };
}

function kinds(row: Float32Array): (number | string)[] {
  return Array.from(row, (y) => (Number.isFinite(y) ? 'finite' : y));
}
