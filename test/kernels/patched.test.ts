import assert from 'node:assert/strict';
import { test } from 'node:test';
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import { onEveryIsa } from './every-isa.js';
import { assertSameBits, changed, floats, metadata, random, relativeError, weights, type Random } from './numbers.js';
import { scoped, type Scope } from './scope.js';

/** T, N, K: tails of rows and columns, more than a window of rows, and more than a window of columns. */
const SHAPES: readonly (readonly [number, number, number])[] = [
  [1, 1, 8],
  [2, 9, 64],
  [3, 8, 72],
  [5, 17, 136],
  [8, 40, 704],
  [11, 24, 1000],
  [3, 530, 48],
  [2, 2, 2 ** 18 + 200],
];

/** Of sums of some thousand products; where all of a long row changes, a few hundred thousand are added and taken away. */
const TOLERANCE = 2e-6;
const LONG_TOLERANCE = 2e-5;

onEveryIsa(import.meta.url, () => {
  for (const precision of ['bf16', 'f32'] as const) {
    test(`a batch in ${precision} through patches equals each child compacted, to fp32 rounding`, () => {
      for (const [tokens, n, k] of SHAPES) {
        for (const churn of [0, 0.0001, 0.02, 1]) {
          scoped((scope) => {
            native.setPrecision(precision);
            const batch = makeBatch(scope, tokens, n, k, churn);
            const error = relativeError(batch.patched(0, tokens), batch.compacted());
            assert.ok(
              error < (k < 2 ** 18 ? TOLERANCE : LONG_TOLERANCE),
              `T=${tokens} N=${n} K=${k} churn ${churn}: error ${error}`,
            );
          });
        }
      }
    });

    test(`a row of a patched batch in ${precision} has the same bits in every batch and on any number of threads`, () => {
      scoped((scope) => {
        native.setPrecision(precision);
        const [tokens, n, k] = [13, 300, 1000];
        const batch = makeBatch(scope, tokens, n, k, 0.03);
        native.setThreads(1);
        const whole = batch.patched(0, tokens);
        for (const threads of [1, 2, 3, 8]) {
          native.setThreads(threads);
          for (const count of [1, 2, 5, 13]) {
            for (let first = 0; first + count <= tokens; first += count) {
              const rows = whole.slice(first * n, (first + count) * n);
              assertSameBits(batch.patched(first, count), rows, `${threads} threads, tokens ${first}+${count}`);
            }
          }
        }
        native.setThreads(0);
      });
    });
  }

  test('a long prompt through one patch equals its child, compacted, to fp32 rounding', () => {
    for (const [n, k] of [
      [45, 1000],
      [3, 2 ** 18 + 200],
    ] as const) {
      for (const precision of ['bf16', 'f32'] as const) {
        scoped((scope) => {
          native.setPrecision(precision);
          const tokens = 70;
          const next = random(n);
          const [x, dense, parent] = [floats(next, tokens * k), weights(next, n * k), metadata(next, (n * k) / 8)];
          const child = changed(next, parent, 0.3);
          const packed = compacted(scope, dense, parent, n, k);
          const patch = patchTo(scope, packed, scope.put(dense), child, n, k);
          const [rows, patched, alone] = [scope.put(x), scope.room(tokens * n * 4), scope.room(tokens * n * 4)];
          native.matmul24Patched(patched, rows, packed, new Float64Array(tokens).fill(patch), tokens, n, k);
          native.matmul24(alone, rows, compacted(scope, dense, child, n, k), tokens, n, k);
          const error = relativeError(scope.floats(patched, tokens * n), scope.floats(alone, tokens * n));
          assert.ok(error < LONG_TOLERANCE, `N=${n} K=${k}: error ${error}`);
        });
      }
    }
  });

  test('a patch takes 96 bytes for each swap of the longest of 16 rows, which are those with most swaps, and a little more', () => {
    scoped((scope) => {
      const [n, k] = [64, 512];
      const meta = metadata(random(3), (n * k) / 8).fill(0x44);
      const packed = compacted(scope, new Uint16Array(n * k), meta, n, k);
      const child = Uint8Array.from(meta, (byte, i) => (i % 40 === 0 ? 0x48 : byte));
      // Bytes 0, 40, 80, … of rows of 64 bytes.
      const perRow = Array.from(
        { length: n },
        (_, r) => child.slice(64 * r, 64 * r + 64).filter((b) => b === 0x48).length,
      ).sort((a, b) => b - a);
      const steps = [0, 16, 32, 48].reduce((sum, first) => sum + (perRow[first] as number), 0);
      // Header and table, the window's numbers of steps and places of rows, each to a multiple of 32; the steps.
      assert.equal(native.patchBytes24(packed, scope.put(child), n, k), 64 + 96 + 96 * steps);
    });
  });

  test('a patch of a list of changes is byte for byte that of the whole mask', () => {
    for (const [, n, k] of SHAPES) {
      for (const churn of [0, 0.02, 1]) {
        scoped((scope) => {
          const next = random(n + k);
          const meta = metadata(next, (n * k) / 8);
          const child = changed(next, meta, churn);
          const dense = weights(next, n * k);
          const [w, packed] = [scope.put(dense), compacted(scope, dense, meta, n, k)];
          const [groups, codes] = [new Uint32Array((n * k) / 4), new Uint8Array((n * k) / 4)];
          const count = native.findChanges(child, meta, groups.length, groups, codes);
          const list = [groups.subarray(0, count), codes.subarray(0, count)] as const;
          const bytes = native.patchBytes24(packed, scope.put(child), n, k);
          assert.equal(native.changesBytes24(packed, ...list, n, k), bytes);
          const patch = scope.room(bytes);
          native.buildChanges24(patch, packed, w, ...list, n, k);
          const [made, expected] = [Buffer.alloc(bytes), Buffer.alloc(bytes)];
          native.read(patch, 0, made);
          native.read(patchTo(scope, packed, w, child, n, k), 0, expected);
          assert.deepEqual(made, expected, `N=${n} K=${k} churn ${churn}`);
        });
      }
    }
  });

  test('a list of changes is refused unless it ascends within the matrix, names patterns and takes no infinity out', () => {
    scoped((scope) => {
      const dense = new Uint16Array(4 * 64).fill(0x3f80);
      dense[1] = 0x7f80;
      const [w, packed] = [scope.put(dense), compacted(scope, dense, new Uint8Array(32).fill(0x44), 4, 64)];
      const bytes = (groups: number[], codes: number[]): number =>
        native.changesBytes24(packed, Uint32Array.from(groups), Uint8Array.from(codes), 4, 64);
      assert.throws(() => bytes([2, 2], [8, 8]), /expected changed groups to ascend below 64 but received 2 after 2/);
      assert.throws(() => bytes([64], [8]), /expected changed groups to ascend below 64 but received 64/);
      assert.throws(
        () => bytes([5], [6]),
        /expected codes idx0 \| idx1 << 2 with idx0 < idx1 but received 6 for group 5/,
      );
      assert.throws(() => bytes([5], [8, 8]), { name: 'RangeError', message: /codes to be as many as groups/ });
      const list = [Uint32Array.of(0), Uint8Array.of(8)] as const;
      const patch = scope.room(native.changesBytes24(packed, ...list, 4, 64));
      assert.throws(() => native.buildChanges24(patch, packed, w, ...list, 4, 64), /finite weights .* row 0/);
      const long = scope.room(native.byteLength(patch) + 1);
      assert.throws(() => native.buildChanges24(long, packed, w, ...list, 4, 64), /expected patch of exactly the /);
    });
  });

  test('1.5% changed groups take less than 4% of the compacted copy, also in a narrow matrix', () => {
    for (const [n, k] of [
      [704, 256],
      [256, 704],
      [512, 2048],
    ] as const) {
      scoped((scope) => {
        const next = random(k);
        const meta = metadata(next, (n * k) / 8);
        const packed = compacted(scope, weights(next, n * k), meta, n, k);
        // A sixth of the random draws leave the group as it was.
        const child = changed(next, meta, 0.015 * 1.2);
        const share = native.patchBytes24(packed, scope.put(child), n, k) / ((n * k * 9) / 8);
        assert.ok(share > 0.02 && share < 0.04, `${n}x${k}: ${share}`);
      });
    }
  });

  test('infinities and NaNs of the activations give what the child, compacted, gives', () => {
    scoped((scope) => {
      const [tokens, n, k] = [6, 20, 200];
      const x = floats(random(5), tokens * k);
      [Infinity, -Infinity, NaN, Infinity].forEach((bad, t) => (x[t * k + 37 * t] = bad));
      const batch = makeBatch(scope, tokens, n, k, 0.5, x);
      assert.deepEqual(kinds(batch.patched(0, tokens)), kinds(batch.compacted()));
    });
  });

  test('infinite weights may stay or come in, and are refused where a patch would take them out', () => {
    scoped((scope) => {
      const dense = new Uint16Array(4 * 64).fill(0x3f80);
      const meta = new Uint8Array(32).fill(0x44); // positions 0 and 1
      dense[64 + 2] = 0x7f80;
      const [w, packed] = [scope.put(dense), compacted(scope, dense, meta, 4, 64)];
      const child = Uint8Array.from(meta);
      child[8] = 0x48; // row 1: 2 for 1
      const patch = patchTo(scope, packed, w, child, 4, 64);
      const [y, x] = [scope.room(16), scope.put(new Float32Array(64).fill(1))];
      native.matmul24Patched(y, x, packed, Float64Array.of(patch), 1, 4, 64);
      assert.deepEqual([...scope.floats(y, 4)], [32, Infinity, 32, 32]);
      dense[128 + 1] = 0xff80;
      native.write(w, 0, dense);
      child[16] = 0x48;
      const m = scope.put(child);
      const room = scope.room(native.patchBytes24(packed, m, 4, 64));
      const message = /^buildPatch24: expected finite weights .* row 2; compact this mask instead$/;
      assert.throws(() => native.buildPatch24(room, packed, w, m, 4, 64), { name: 'RangeError', message });
      const unusable = /^matmul24Patched: expected patches that buildPatch24 made for a matrix of 4 x 64/;
      assert.throws(() => native.matmul24Patched(y, x, packed, Float64Array.of(room), 1, 4, 64), { message: unusable });
    });
  });

  test('what is not a patch of this matrix is refused', () => {
    scoped((scope) => {
      const next = random(7);
      const meta = metadata(next, 64);
      const dense = weights(next, 512);
      const [w, packed] = [scope.put(dense), compacted(scope, dense, meta, 8, 64)];
      const patch = patchTo(scope, packed, w, changed(next, meta, 0.5), 8, 64);
      const short = native.view(patch, 0, native.byteLength(patch) - 1);
      const [y, x] = [scope.room(4 * 1024), scope.room(4 * 1024)];
      const message = /^matmul24Patched: expected patches that buildPatch24 made/;
      for (const bad of [w, short, scope.room(1 << 12)]) {
        assert.throws(() => native.matmul24Patched(y, x, packed, Float64Array.of(bad), 1, 8, 64), { message });
      }
      assert.throws(() => native.matmul24Patched(y, x, packed, Float64Array.of(patch), 1, 4, 128), { message });
      const stale = native.alloc(8);
      native.free(stale);
      assert.throws(() => native.matmul24Patched(y, x, packed, Float64Array.of(0, stale), 2, 8, 64), {
        name: 'TypeError',
        message: /patches to name a live buffer/,
      });
      native.free(short);
    });
  });
});

interface Batch {
  /** Rows [first, first + count) through their patches. */
  patched(first: number, count: number): Float32Array;
  /** Each row through its child, compacted. */
  compacted(): Float32Array;
}

/** Every third row is the parent's own, every fourth repeats the patch before it. */
function makeBatch(scope: Scope, tokens: number, n: number, k: number, churn: number, given?: Float32Array): Batch {
  const next = random(tokens * 1000 + k + Math.round(churn * 100));
  const x = given ?? floats(next, tokens * k);
  const dense = weights(next, n * k);
  const parent = metadata(next, (n * k) / 8);
  const [w, packed] = [scope.put(dense), compacted(scope, dense, parent, n, k)];
  const children: Uint8Array[] = [];
  const patches: Handle[] = [];
  for (let t = 0; t < tokens; t++) children.push(childOf(next, t, parent, children, churn));
  children.forEach((child, t) => {
    const same = t > 0 && child === children[t - 1];
    patches.push(
      child === parent ? NO_BUFFER : same ? (patches[t - 1] as Handle) : patchTo(scope, packed, w, child, n, k),
    );
  });
  return {
    patched: (first, count) => {
      const y = scope.room(count * n * 4);
      const rows = scope.put(x.slice(first * k, (first + count) * k));
      native.matmul24Patched(y, rows, packed, Float64Array.from(patches.slice(first, first + count)), count, n, k);
      return scope.floats(y, count * n);
    },
    compacted: () => {
      const out = new Float32Array(tokens * n);
      children.forEach((child, t) => {
        const y = scope.room(n * 4);
        native.matmul24(y, scope.put(x.slice(t * k, (t + 1) * k)), compacted(scope, dense, child, n, k), 1, n, k);
        out.set(scope.floats(y, n), t * n);
      });
      return out;
    },
  };
}

function childOf(
  next: Random,
  t: number,
  parent: Uint8Array,
  before: readonly Uint8Array[],
  churn: number,
): Uint8Array {
  if (t % 3 === 2) return parent;
  return t % 4 === 1 ? (before[t - 1] as Uint8Array) : changed(next, parent, churn);
}

function compacted(scope: Scope, dense: Uint16Array, meta: Uint8Array, n: number, k: number): Handle {
  const packed = scope.room((n * k * 9) / 8);
  native.compress24(packed, scope.put(dense), scope.put(meta), n, k);
  return packed;
}

function patchTo(scope: Scope, packed: Handle, w: Handle, child: Uint8Array, n: number, k: number): Handle {
  const meta = scope.put(child);
  const patch = scope.room(native.patchBytes24(packed, meta, n, k));
  native.buildPatch24(patch, packed, w, meta, n, k);
  return patch;
}

function kinds(row: Float32Array): (number | string)[] {
  return Array.from(row, (y) => (Number.isFinite(y) ? 'finite' : y));
}
