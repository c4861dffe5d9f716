import assert from 'node:assert/strict';
import { test } from 'node:test';
import { native } from '../../kernels/index.js';
import { onEveryIsa } from './every-isa.js';
import { assertSameBits, floats, fromBf16, fromF16, random, relativeError, toBf16, weights } from './numbers.js';
import * as reference from './reference.js';
import { scoped } from './scope.js';

const LENGTHS = [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 576, 1001];

onEveryIsa(import.meta.url, () => {
  test('conversion to bf16 rounds to nearest even, keeps NaN, and takes an input at any address', () => {
    scoped((scope) => {
      const special = [0, -0, 1, -1, 1.00390625, 1.01171875, 3.4028235e38, 1e-40, -1e-45, Infinity, -Infinity, NaN];
      const next = random(1);
      const input = Float32Array.from([
        ...special,
        ...floats(next, 500).map((v) => v * 2 ** Math.floor(next() * 60 - 30)),
      ]);
      const shifted = scope.room(input.byteLength + 1);
      native.write(shifted, 1, input);
      const unaligned = native.view(shifted, 1, input.byteLength);
      const out = scope.room(input.length * 2);
      native.toBf16(out, unaligned, 'f32', input.length);
      native.free(unaligned);
      assertSameBits(scope.words(out, input.length), Uint16Array.from(input, toBf16), 'f32 → bf16');
    });
  });

  test('every f16 converts to f32 exactly and to bf16 rounded', () => {
    scoped((scope) => {
      const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
      const [input, f32, bf16] = [scope.put(all), scope.room(65536 * 4), scope.room(65536 * 2)];
      native.toF32(f32, input, 'f16', 65536);
      native.toBf16(bf16, input, 'f16', 65536);
      const [exact, rounded] = [scope.floats(f32, 65536), scope.words(bf16, 65536)];
      all.forEach((bits) => {
        assert.ok(Object.is(exact[bits], fromF16(bits)), `f16 ${bits}`);
        assert.ok(Object.is(fromBf16(rounded[bits] ?? 0), fromBf16(toBf16(fromF16(bits)))), `f16 ${bits}`);
      });
    });
  });

  test('bf16 and f32 pass through conversion unchanged where nothing is to be done', () => {
    scoped((scope) => {
      const words = Uint16Array.from({ length: 65536 }, (_, i) => i);
      const [out, wide] = [scope.room(65536 * 2), scope.room(65536 * 4)];
      native.toBf16(out, scope.put(words), 'bf16', 65536);
      assertSameBits(scope.words(out, 65536), words, 'bf16 → bf16');
      native.toF32(wide, out, 'bf16', 65536);
      assert.ok(scope.floats(wide, 65536).every((v, i) => Object.is(v, fromBf16(i))));
      native.toF32(wide, scope.put(floats(random(1), 1000)), 'f32', 1000);
      assertSameBits(scope.floats(wide, 1000), floats(random(1), 1000), 'f32 → f32');
    });
  });

  test('embed gathers rows of the table', () => {
    scoped((scope) => {
      const [vocab, dim] = [11, 37];
      const table = weights(random(2), vocab * dim);
      const ids = Int32Array.of(10, 0, 3, 3);
      const out = scope.room(ids.length * dim * 4);
      native.embed(out, scope.put(table), ids, vocab, dim);
      const expected = [...ids].flatMap((id) => [...table.subarray(id * dim, (id + 1) * dim)].map(fromBf16));
      assertSameBits(scope.floats(out, ids.length * dim), Float32Array.from(expected), 'rows');
    });
  });

  test('rmsnorm, apart and in place', () => {
    for (const dim of LENGTHS) {
      scoped((scope) => {
        const next = random(dim);
        const [x, gain] = [floats(next, 3 * dim), floats(next, dim)];
        const expected = reference.rmsnorm(x, gain, 3, dim, 1e-5);
        const [input, out] = [scope.put(x), scope.room(3 * dim * 4)];
        native.rmsnorm(out, input, scope.put(gain), 3, dim, 1e-5);
        assert.ok(relativeError(scope.floats(out, 3 * dim), expected) < 1e-6, `D=${dim}`);
        native.rmsnorm(input, input, scope.put(gain), 3, dim, 1e-5);
        assertSameBits(scope.floats(input, 3 * dim), scope.floats(out, 3 * dim), 'in place');
      });
    }
  });

  test('rope rotates the halves of a head by the angle of their position', () => {
    for (const headDim of [2, 6, 16, 24, 64, 128]) {
      scoped((scope) => {
        const [positions, start, tokens, heads] = [40, 9, 5, 3];
        const angle = (p: number, i: number): number => p * 10000 ** ((-2 * i) / headDim);
        const table = (f: (a: number) => number): Float32Array =>
          Float32Array.from({ length: (positions * headDim) / 2 }, (_, j) =>
            f(angle(Math.floor(j / (headDim / 2)), j % (headDim / 2))),
          );
        const x = floats(random(headDim), tokens * heads * headDim);
        const buffer = scope.put(x);
        native.rope(buffer, scope.put(table(Math.cos)), scope.put(table(Math.sin)), start, tokens, heads, headDim);
        const expected = reference.rope(x, angle, start, tokens, heads, headDim);
        assert.ok(relativeError(scope.floats(buffer, x.length), expected) < 1e-6, `hd=${headDim}`);
      });
    }
  });

  test('kvWrite places each head of each token and touches nothing else', () => {
    scoped((scope) => {
      const [start, tokens, kvHeads, headDim, capacity] = [3, 2, 2, 5, 8];
      const x = floats(random(4), tokens * kvHeads * headDim);
      const [cache, narrow] = [
        scope.room(kvHeads * capacity * headDim * 4),
        scope.room(kvHeads * capacity * headDim * 2),
      ];
      native.kvWrite(cache, scope.put(x), start, tokens, kvHeads, headDim, capacity, 'f32');
      native.kvWrite(narrow, scope.put(x), start, tokens, kvHeads, headDim, capacity, 'bf16');
      const expected = new Float32Array(kvHeads * capacity * headDim);
      for (let t = 0; t < tokens; t++) {
        for (let h = 0; h < kvHeads; h++) {
          const row = x.subarray((t * kvHeads + h) * headDim, (t * kvHeads + h + 1) * headDim);
          expected.set(row, (h * capacity + start + t) * headDim);
        }
      }
      assertSameBits(scope.floats(cache, expected.length), expected, 'cache');
      assert.deepEqual(scope.words(narrow, expected.length), Uint16Array.from(expected, toBf16));
    });
  });

  test('siluMul, add and addBias', () => {
    for (const n of LENGTHS) {
      scoped((scope) => {
        const next = random(n);
        const gate = floats(next, n).map((v) => v * 20);
        const up = floats(next, n);
        const [g, u, out] = [scope.put(gate), scope.put(up), scope.room(n * 4)];
        native.siluMul(out, g, u, n);
        const expected = Float64Array.from(gate, (v, i) => (v / (1 + Math.exp(-v))) * (up[i] ?? 0));
        assert.ok(relativeError(scope.floats(out, n), expected) < 1e-6, `silu n=${n}`);
        native.siluMul(g, g, u, n);
        assertSameBits(scope.floats(g, n), scope.floats(out, n), 'in place');

        const x = scope.put(up);
        native.add(x, scope.put(gate), n);
        assertSameBits(
          scope.floats(x, n),
          up.map((v, i) => v + (gate[i] ?? 0)),
          `add n=${n}`,
        );

        const rows = floats(next, 3 * n);
        const buffer = scope.put(rows);
        native.addBias(buffer, u, 3, n);
        assertSameBits(
          scope.floats(buffer, 3 * n),
          rows.map((v, i) => v + (up[i % n] ?? 0)),
          `addBias n=${n}`,
        );
      });
    }
  });

  test('silu is accurate from deep negative to large gates, one by one', () => {
    scoped((scope) => {
      const gate = Float32Array.from({ length: 4001 }, (_, i) => (i - 2000) / 20);
      const out = scope.room(gate.byteLength);
      native.siluMul(out, scope.put(gate), scope.put(new Float32Array(gate.length).fill(1)), gate.length);
      scope.floats(out, gate.length).forEach((y, i) => {
        const x = gate[i] ?? 0;
        const exact = x / (1 + Math.exp(-x));
        assert.ok(Math.abs(y - exact) <= 5e-7 * Math.abs(exact) + 1e-36, `silu(${x}) = ${exact}, received ${y}`);
      });
    });
  });
});
