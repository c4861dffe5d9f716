/** Products of one input in one call: the same bits as one after another, on every instruction set and any number of threads; panels from where they are asked for. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import { onEveryIsa } from './every-isa.js';
import { assertSameBits, changed, floats, metadata, random, relativeError, weights } from './numbers.js';
import { scoped, type Scope } from './scope.js';

/** K, and N of one, two or three matrices: tails of rows and columns, one row, a K that is cut, matrices of several sizes. */
const SHAPES: readonly (readonly [number, readonly number[]])[] = [
  [64, [64, 8, 8]],
  [136, [1, 45]],
  [200, [40, 3, 17]],
  [2888, [33, 5]],
  [448, [150, 150]],
  [136, [43]],
];
const TOKENS = [1, 2, 3, 8, 64, 65, 130];
/** From here on a product is by panels whatever it is told. */
const LONG_PROMPT = 65;
const NO_PATCHES = new Float64Array(0);

interface Matrices {
  readonly k: number;
  readonly n: readonly number[];
  readonly dense: readonly Handle[];
  readonly packed: readonly Handle[];
  /** Of each matrix, from what is packed to another mask. */
  readonly patches: readonly Handle[];
}

/** Computes all y at once, or one after another. */
type Way = (y: readonly Handle[], x: Handle, tokens: number) => void;

onEveryIsa(import.meta.url, (isa) => {
  for (const precision of ['bf16', 'f32'] as const) {
    test(`in ${precision} matmulFused has the bits of matmul of each`, () => {
      eachShape(precision, ({ k, n, dense }) => [
        (y, x, tokens) => n.forEach((rows, i) => native.matmul(y[i]!, x, dense[i]!, tokens, rows, k)),
        (y, x, tokens) => native.matmulFused(x, tokens, k, ...productArguments(y, dense, n)),
      ]);
    });

    test(`in ${precision} matmul24Fused has the bits of matmul24 of each`, () => {
      eachShape(precision, ({ k, n, packed }) => [
        (y, x, tokens) => n.forEach((rows, i) => native.matmul24(y[i]!, x, packed[i]!, tokens, rows, k)),
        (y, x, tokens) =>
          native.matmul24Fused(x, tokens, k, ...productArguments(y, packed, n), NO_PATCHES, LONG_PROMPT),
      ]);
    });

    test(`in ${precision} matmul24Fused through patches has the bits of matmul24Patched of each`, () => {
      for (const some of ['every token', 'every third token'] as const) {
        const patchOf = (patch: Handle, t: number): Handle =>
          some === 'every token' || t % 3 === 1 ? patch : NO_BUFFER;
        const perToken = (patch: Handle, tokens: number): Float64Array =>
          Float64Array.from({ length: tokens }, (_, t) => patchOf(patch, t));
        eachShape(precision, ({ k, n, packed, patches }) => [
          (y, x, tokens) =>
            n.forEach((rows, i) =>
              native.matmul24Patched(y[i]!, x, packed[i]!, perToken(patches[i]!, tokens), tokens, rows, k),
            ),
          (y, x, tokens) => {
            const all = Float64Array.from(patches.flatMap((patch) => [...perToken(patch, tokens)]));
            native.matmul24Fused(x, tokens, k, ...productArguments(y, packed, n), all, LONG_PROMPT);
          },
        ]);
      }
    });
  }

  test('from panelTokens tokens on, a row of matmul24Fused has the bits that it has in a long prompt, and below the others', () => {
    const [long, from] = [70, 12];
    for (const [k, n] of SHAPES) {
      scoped((scope) => {
        const of = matrices(scope, k, n);
        const x = scope.put(floats(random(k), long * k));
        for (const patched of [false, true]) {
          const rows = (tokens: number, panelTokens: number): Float32Array[] =>
            outputs(of, tokens, (y) => {
              const patches = patched ? of.patches.flatMap((patch) => Array<Handle>(tokens).fill(patch)) : [];
              const products = productArguments(y, of.packed, n);
              native.matmul24Fused(x, tokens, k, ...products, Float64Array.from(patches), panelTokens);
            });
          const firstOf = (all: readonly Float32Array[], tokens: number): Float32Array[] =>
            all.map((y, i) => y.slice(0, tokens * n[i]!));
          const [inPrompt, alone] = [rows(long, LONG_PROMPT), rows(from, LONG_PROMPT)];
          assert.deepEqual(rows(from, from), firstOf(inPrompt, from), `at ${from} tokens of ${k}, patched ${patched}`);
          assert.deepEqual(rows(from - 1, from), firstOf(alone, from - 1), `below ${from}, patched ${patched}`);
          for (const [i, y] of alone.entries()) {
            const error = relativeError(firstOf(inPrompt, from)[i]!, y);
            assert.ok(error < 1e-6, `error ${error}, K=${k}`);
            if (isa !== 'scalar' && k > 64) assert.ok(error > 0, 'the sums have another order');
          }
        }
      });
    }
  });

  test('a patch of another matrix is refused, whichever product it is given to', () => {
    scoped((scope) => {
      const { k, n, packed, patches } = matrices(scope, 200, [40, 3, 17]);
      const y = n.map((rows) => scope.room(rows * 4));
      const x = scope.room(k * 4);
      const run = (...given: Handle[]): void =>
        native.matmul24Fused(x, 1, k, ...productArguments(y, packed, n), Float64Array.from(given), LONG_PROMPT);
      const [first, second, third] = patches as [Handle, Handle, Handle];
      run(first, second, third);
      for (const wrong of [
        [second, second, third],
        [first, first, third],
        [first, second, first],
      ]) {
        assert.throws(() => run(...wrong), { name: 'RangeError', message: /^matmul24Fused: .*patch/ });
      }
    });
  });
});

function eachShape(precision: 'bf16' | 'f32', ways: (of: Matrices) => readonly [Way, Way]): void {
  native.setPrecision(precision);
  for (const [k, n] of SHAPES) {
    scoped((scope) => {
      const of = matrices(scope, k, n);
      const [alone, fused] = ways(of);
      const xs = TOKENS.map((tokens) => ({ tokens, x: scope.put(inputOf(tokens, k)) }));
      native.setThreads(1);
      const expected = xs.map(({ tokens, x }) => outputs(of, tokens, (y) => alone(y, x, tokens)));
      for (const threads of [1, 2, 5]) {
        native.setThreads(threads);
        xs.forEach(({ tokens, x }, at) => {
          outputs(of, tokens, (y) => fused(y, x, tokens)).forEach((y, i) => {
            const what = `${threads} threads, T=${tokens} K=${k} N=${n.join()}, product ${i}`;
            assertSameBits(y, expected[at]![i]!, what);
          });
        });
      }
      native.setThreads(0);
    });
  }
}

/** Some with an infinity and a NaN: what they make of pruned places is worked out after the sums. */
function inputOf(tokens: number, k: number): Float32Array {
  const x = floats(random(tokens + k), tokens * k);
  if (tokens === 3 || tokens === 130) [x[5], x[k + 9]] = [Infinity, NaN];
  return x;
}

function matrices(scope: Scope, k: number, n: readonly number[]): Matrices {
  const next = random(k + n.length);
  const each = n.map((rows) => {
    const w = scope.put(weights(next, rows * k));
    const mask = metadata(next, (rows * k) / 8);
    const [parent, child] = [scope.put(mask), scope.put(changed(next, mask, 0.05))];
    const packed = scope.room((rows * k * 9) / 8);
    native.compress24(packed, w, parent, rows, k);
    const patch = scope.room(native.patchBytes24(packed, child, rows, k));
    native.buildPatch24(patch, packed, w, child, rows, k);
    return { w, packed, patch };
  });
  return {
    k,
    n,
    dense: each.map(({ w }) => w),
    packed: each.map(({ packed }) => packed),
    patches: each.map(({ patch }) => patch),
  };
}

type FusedArguments = [Handle, Handle, number, Handle, Handle, number, Handle, Handle, number];

function productArguments(y: readonly Handle[], w: readonly Handle[], n: readonly number[]): FusedArguments {
  return [0, 1, 2].flatMap((i) => [y[i] ?? NO_BUFFER, w[i] ?? NO_BUFFER, n[i] ?? 0]) as FusedArguments;
}

function outputs({ n }: Matrices, tokens: number, run: (y: readonly Handle[]) => void): Float32Array[] {
  return scoped((scope) => {
    const y = n.map((rows) => scope.room(tokens * rows * 4));
    run(y);
    return n.map((rows, i) => scope.floats(y[i]!, tokens * rows));
  });
}
