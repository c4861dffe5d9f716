import assert from 'node:assert/strict';
import { test } from 'node:test';
import { native, NO_BUFFER } from '../../kernels/index.js';
import { onEveryIsa } from './every-isa.js';
import { assertSameBits, floats, fromBf16, random, relativeError, weights } from './numbers.js';
import * as reference from './reference.js';
import { scoped } from './scope.js';

onEveryIsa(import.meta.url, () => {
  test('scoreMask24 keeps the two largest |w|·scale of each group', () => {
    for (const k of [8, 24, 64, 200]) {
      scoped((scope) => {
        const next = random(k);
        const w = weights(next, 7 * k);
        const scale = floats(next, k).map(Math.abs);
        const meta = scope.room((7 * k) / 8);
        const score = (i: number, s: number): number => Math.fround(Math.abs(fromBf16(w[i] ?? 0)) * s);
        native.scoreMask24(meta, scope.put(w), NO_BUFFER, 7, k);
        assert.deepEqual(
          scope.bytes(meta, (7 * k) / 8),
          reference.bestTwo(Float64Array.from(w, (_, i) => score(i, 1))),
        );
        native.scoreMask24(meta, scope.put(w), scope.put(scale), 7, k);
        const wanda = Float64Array.from(w, (_, i) => score(i, scale[i % k] ?? 0));
        assert.deepEqual(scope.bytes(meta, (7 * k) / 8), reference.bestTwo(wanda));
      });
    }
  });

  test('every order of four scores, with every tie, is ranked by definition', () => {
    scoped((scope) => {
      const values = [0, 0x3f80, 0xc000, 0x4040]; // 0, 1, −2, 3
      const w = Uint16Array.from({ length: 1024 }, (_, i) => values[((i >> 2) >> (2 * (i & 3))) & 3] ?? 0);
      const meta = scope.room(128);
      native.scoreMask24(meta, scope.put(w), NO_BUFFER, 1, 1024);
      const expected = reference.bestTwo(Float64Array.from(w, (bits) => Math.abs(fromBf16(bits))));
      assert.deepEqual(scope.bytes(meta, 128), expected);
    });
  });

  test('equal scores keep the lower position, and a NaN is the first to go', () => {
    scoped((scope) => {
      const one = 0x3f80;
      const nan = 0x7fc0;
      const w = Uint16Array.of(one, one, one, one, nan, one, 0, nan, 0, 0x8000, one, 0xbf80, nan, nan, nan, nan);
      const meta = scope.room(2);
      native.scoreMask24(meta, scope.put(w), NO_BUFFER, 1, 16);
      assert.deepEqual([...scope.bytes(meta, 2)], [4 | (9 << 4), 14 | (4 << 4)]);
    });
  });

  test('sumSquares and gram add to what is there, for any number of tokens and columns', () => {
    for (const [tokens, k] of [
      [1, 1],
      [5, 8],
      [256, 33],
      [257, 100],
      [600, 47],
    ] as const) {
      scoped((scope) => {
        const x = floats(random(k), tokens * k);
        const [sums, gram] = [scope.room(k * 8), scope.room(k * k * 8)];
        const input = scope.put(x);
        for (let i = 0; i < 2; i++) {
          native.sumSquares(sums, input, tokens, k);
          native.gram(gram, input, tokens, k);
        }
        const twice = reference.gram(x, tokens, k).map((v) => 2 * v);
        const diagonal = Float64Array.from({ length: k }, (_, i) => twice[i * k + i] ?? 0);
        assert.ok(relativeError(scope.doubles(sums, k), diagonal) < 1e-12, `T=${tokens} K=${k}`);
        const received = scope.doubles(gram, k * k);
        assert.ok(relativeError(received, twice) < 1e-6, `T=${tokens} K=${k}`);
        for (let i = 0; i < k; i++) {
          for (let j = 0; j < i; j++) assert.equal(received[i * k + j], received[j * k + i], 'symmetric');
        }
      });
    }
  });

  test('the statistics have the same bits on any number of threads', () => {
    scoped((scope) => {
      const [tokens, k] = [700, 200];
      const x = scope.put(floats(random(1), tokens * k));
      const run = (threads: number): { sums: Float64Array; gram: Float64Array } => {
        native.setThreads(threads);
        const [sums, gram] = [scope.room(k * 8), scope.room(k * k * 8)];
        native.sumSquares(sums, x, tokens, k);
        native.gram(gram, x, tokens, k);
        return { sums: scope.doubles(sums, k), gram: scope.doubles(gram, k * k) };
      };
      const one = run(1);
      for (const threads of [2, 5]) {
        const many = run(threads);
        assertSameBits(many.sums, one.sums, 'sums');
        assertSameBits(many.gram, one.gram, 'gram');
      }
      native.setThreads(0);
    });
  });

  for (const [n, k, tokens] of [
    [3, 8, 40],
    [9, 64, 200],
    [17, 72, 300],
    [8, 136, 100],
    [20, 264, 500],
  ] as const) {
    test(`sparsegpt24 (${n}, ${k}) chooses and compensates as the plain loop does`, () => checkSparseGpt(n, k, tokens));
  }

  test('sparsegpt24 has the same bits on any number of threads, and may update in place', () => {
    scoped((scope) => {
      const [n, k, tokens] = [50, 200, 400];
      const next = random(9);
      const gram = scope.room(k * k * 8);
      native.gram(gram, scope.put(floats(next, tokens * k)), tokens, k);
      const w = weights(next, n * k);
      const runs = [1, 2, 7].map((threads) => {
        native.setThreads(threads);
        const [meta, updated] = [scope.room((n * k) / 8), scope.put(w)];
        native.sparsegpt24(meta, updated, updated, gram, tokens, n, k, 0.01);
        return { meta: scope.bytes(meta, (n * k) / 8), updated: scope.words(updated, n * k) };
      });
      native.setThreads(0);
      for (const run of runs) {
        assertSameBits(run.meta, runs[0]?.meta ?? run.meta, 'meta');
        assertSameBits(run.updated, runs[0]?.updated ?? run.updated, 'updated');
      }
    });
  });

  test('a Hessian that is not positive definite is refused with what to do', () => {
    scoped((scope) => {
      const k = 16;
      const gram = new Float64Array(k * k);
      for (let i = 0; i < k; i++) gram[i * k + i] = 1;
      gram[3 * k + 4] = gram[4 * k + 3] = 5;
      const attempt = (g: Float64Array): void =>
        native.sparsegpt24(scope.room(2), NO_BUFFER, scope.room(2 * k), scope.put(g), 1, 1, k, 0.01);
      assert.throws(() => attempt(gram), {
        name: 'RangeError',
        message: /positive definite.*raise damp.*more samples/,
      });
      gram.fill(NaN);
      assert.throws(() => attempt(gram), /positive definite/);
    });
  });
});

/** SparseGPT as the reference implementation writes it: fp64 for the factor, fp32 for the rows, one column after another. */
function checkSparseGpt(n: number, k: number, tokens: number): void {
  scoped((scope) => {
    const next = random(n * k);
    const x = floats(next, tokens * k);
    for (let t = 0; t < tokens; t++) {
      // Correlated inputs, or there is nothing to compensate; and two inputs that are never used.
      for (let i = 1; i < k; i++) x[t * k + i] = (x[t * k + i] ?? 0) + 0.8 * (x[t * k + i - 1] ?? 0);
      x[t * k + 3] = 0;
      x[t * k + k - 2] = 0;
    }
    const w = weights(next, n * k);
    const gramBuffer = scope.room(k * k * 8);
    native.gram(gramBuffer, scope.put(x), tokens, k);
    const gram = scope.doubles(gramBuffer, k * k);
    const [meta, updated] = [scope.room((n * k) / 8), scope.room(n * k * 2)];
    native.sparsegpt24(meta, updated, scope.put(w), gramBuffer, tokens, n, k, 0.01);

    const expected = sparsegpt(w, gram, tokens, n, k, 0.01);
    const received = scope.bytes(meta, (n * k) / 8);
    const differing = received.filter((byte, i) => byte !== expected.meta[i]).length;
    assert.equal(differing, 0, `${differing} of ${received.length} bytes of the mask differ`);
    const values = Float64Array.from(scope.words(updated, n * k), fromBf16);
    assert.ok(relativeError(values, expected.weights) < 3e-3, 'compensated weights, to bf16 rounding');
    received.forEach((byte, b) => {
      for (let i = 0; i < 8; i++) {
        if (!reference.kept(byte).includes(i)) assert.ok(Object.is(values[8 * b + i], 0), 'pruned weights are +0.0');
      }
    });
  });
}

function sparsegpt(
  bits: Uint16Array,
  gram: Float64Array,
  tokens: number,
  n: number,
  k: number,
  damp: number,
): { meta: Uint8Array; weights: Float32Array } {
  const w = Float32Array.from(bits, fromBf16);
  const h = gram.map((g) => (2 * g) / tokens);
  let trace = 0;
  for (let i = 0; i < k; i++) {
    if (h[i * k + i] === 0) {
      h[i * k + i] = 1;
      for (let r = 0; r < n; r++) w[r * k + i] = 0;
    }
    trace += h[i * k + i] ?? 0;
  }
  for (let i = 0; i < k; i++) h[i * k + i] = (h[i * k + i] ?? 0) + (damp * trace) / k;
  const lower = reference.cholesky(reference.inverse(reference.cholesky(h, k), k), k);
  const u = (i: number, j: number): number => Math.fround(lower[j * k + i] ?? 0);
  const meta = new Uint8Array((n * k) / 8);
  for (let r = 0; r < n; r++) {
    const row = w.subarray(r * k, (r + 1) * k);
    for (let i = 0; i < k; i++) {
      if (i % 8 === 0) meta[(r * k + i) / 8] = 4 | (4 << 4);
      if (i % 4 === 0) {
        const score = Float32Array.from({ length: 4 }, (_, j) => Math.fround((row[i + j] ?? 0) / u(i + j, i + j)) ** 2);
        const nibble = reference.bestTwo(Float32Array.of(...score, 0, 0, 0, 0)).at(0) ?? 0;
        const at = (r * k + i - (i % 8)) / 8;
        meta[at] = i % 8 === 0 ? (nibble & 15) | 0x40 : ((meta[at] ?? 0) & 15) | ((nibble & 15) << 4);
      }
      const place = i % 8;
      const byte = meta[(r * k + i - place) / 8] ?? 0;
      if (reference.kept(byte).includes(place)) continue;
      const error = Math.fround((row[i] ?? 0) / u(i, i));
      for (let j = i + 1; j < k; j++) row[j] = Math.fround((row[j] ?? 0) - Math.fround(error * u(i, j)));
      row[i] = 0;
    }
  }
  return { meta, weights: w };
}
