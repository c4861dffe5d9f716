import assert from 'node:assert/strict';
import { test } from 'node:test';
import { native } from '../../kernels/index.js';
import { onEveryIsa } from './every-isa.js';
import { assertSameBits, metadata, NIBBLES, random, weights } from './numbers.js';
import * as reference from './reference.js';
import { scoped } from './scope.js';

onEveryIsa(import.meta.url, () => {
  test('each of the six patterns keeps the two weights it names, behind the metadata', () => {
    scoped((scope) => {
      const w = scope.put(Uint16Array.from({ length: 48 }, (_, i) => i % 8));
      const meta = Uint8Array.from(NIBBLES, (nibble) => nibble | (nibble << 4));
      const packed = scope.room(54);
      native.compress24(packed, w, scope.put(meta), 6, 8);
      const low = ['01', '02', '03', '12', '13', '23'];
      const rows = low.map((pair) => [...pair].map(Number)).flatMap(([a = 0, b = 0]) => [a, b, a + 4, b + 4]);
      assert.deepEqual([...scope.bytes(packed, 6)], [...meta]);
      assert.deepEqual([...scope.words(packed, 27)].slice(3), rows);
    });
  });

  test('kept −0.0 and NaN payloads survive bit by bit, and pruned places become +0.0', () => {
    scoped((scope) => {
      const dense = new Uint16Array(128).fill(0x8000);
      dense.fill(0xffc1, 0, 8);
      const meta = metadata(random(1), 16);
      const [packed, selected] = [scope.room(144), scope.room(256)];
      native.compress24(packed, scope.put(dense), scope.put(meta), 1, 128);
      native.select24(selected, scope.put(dense), scope.put(meta), 1, 128);
      assertSameBits(scope.bytes(packed, 144), reference.packed24(dense, meta, 1, 128), 'packed');
      assertSameBits(scope.words(selected, 128), reference.select24(dense, meta), 'selected');
    });
  });

  test('every number of rows and every K that is a multiple of 8 works, whatever it leaves of a tile', () => {
    for (let k = 8; k <= 264; k += 8) {
      scoped((scope) => {
        const n = 1 + ((k / 8) % 19);
        const next = random(k);
        const [dense, meta] = [weights(next, n * k), metadata(next, (n * k) / 8)];
        const [w, m] = [scope.put(dense), scope.put(meta)];
        const [packed, selected, nibbles] = [
          scope.room((n * k * 9) / 8),
          scope.room(n * k * 2),
          scope.room((n * k) / 8),
        ];
        native.compress24(packed, w, m, n, k);
        native.select24(selected, w, m, n, k);
        native.nibbles24(nibbles, packed, n, k);
        assertSameBits(scope.bytes(packed, (n * k * 9) / 8), reference.packed24(dense, meta, n, k), `N=${n} K=${k}`);
        assertSameBits(scope.words(selected, n * k), reference.select24(dense, meta), `N=${n} K=${k}`);
        assertSameBits(scope.bytes(nibbles, (n * k) / 8), meta, `nibbles of N=${n} K=${k}`);
      });
    }
  });

  test('select24 may work in place', () => {
    scoped((scope) => {
      const [dense, meta] = [weights(random(2), 80), metadata(random(3), 10)];
      const w = scope.put(dense);
      native.select24(w, w, scope.put(meta), 1, 80);
      assertSameBits(scope.words(w, 80), reference.select24(dense, meta), 'in place');
    });
  });

  test('each of the ten nibbles that name no pattern is refused in every place, with its row', () => {
    const bad = Array.from({ length: 16 }, (_, i) => i).filter((i) => !NIBBLES.some((nibble) => nibble === i));
    assert.equal(bad.length, 10);
    for (const nibble of bad) {
      for (const place of [0, 1, 17, 39, 40, 79]) {
        scoped((scope) => {
          const meta = new Uint8Array(40).fill(0x44);
          meta[place >> 1] = place & 1 ? (nibble << 4) | 4 : nibble | 0x40;
          const [w, m] = [scope.put(new Uint16Array(320)), scope.put(meta)];
          const message = new RegExp(`idx0 < idx1.*row ${Math.floor(place / 20)}$`);
          assert.throws(() => native.compress24(scope.room(360), w, m, 4, 80), { name: 'RangeError', message });
          assert.throws(() => native.codes24(scope.room(40), m, 4, 80), { name: 'RangeError', message });
          assert.throws(() => native.select24(scope.room(640), w, m, 4, 80), { name: 'RangeError', message });
        });
      }
    }
  });

  test('of several bad rows the first is named, however many threads look', () => {
    scoped((scope) => {
      const [n, k] = [4096, 512];
      const meta = new Uint8Array((n * k) / 8).fill(0x44);
      for (const row of [700, 1500, 4000]) meta[row * (k / 8)] = 0x40;
      const [w, m] = [scope.room(n * k * 2), scope.put(meta)];
      for (const threads of [1, 4]) {
        native.setThreads(threads);
        assert.throws(() => native.compress24(scope.room((n * k * 9) / 8), w, m, n, k), /row 700$/);
      }
    });
  });
});
