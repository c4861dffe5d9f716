import assert from 'node:assert/strict';
import { test } from 'node:test';
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import { onEveryIsa } from './every-isa.js';
import * as gradients from './gradients.js';
import { assertSameBits, floats, random, relativeError } from './numbers.js';
import * as reference from './reference.js';
import { scoped, type Scope } from './scope.js';

onEveryIsa(import.meta.url, () => {
  for (const [rows, dim] of [
    [1, 1],
    [3, 8],
    [4, 33],
    [150, 3],
  ] as const) {
    test(`rmsnormBackward (${rows}, ${dim}) adds the finite differences of Σ y·dy to dx and dgain`, () => {
      const next = random(rows + dim);
      const [x, dy, gain] = [floats(next, rows * dim), floats(next, rows * dim), floats(next, dim)];
      const [dx0, dgain0] = [floats(next, rows * dim), floats(next, dim)];
      const loss = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
        gradients.dot(gradients.rmsnorm(a, b, dim, 1e-2), dy);
      scoped((scope) => {
        const [dx, dgain] = [scope.put(dx0), scope.put(dgain0)];
        native.rmsnormBackward(dx, dgain, scope.put(dy), scope.put(x), scope.put(gain), rows, dim, 1e-2);
        const expected = plus(
          gradients.numericGradient((a) => loss(a, gain), x),
          dx0,
        );
        assert.ok(relativeError(scope.floats(dx, rows * dim), expected) < 1e-6, 'dx');
        const expectedGain = plus(
          gradients.numericGradient((b) => loss(x, b), gain),
          dgain0,
        );
        assert.ok(relativeError(scope.floats(dgain, dim), expectedGain) < 2e-6, 'dgain');

        const alone = scope.put(dx0);
        native.rmsnormBackward(alone, NO_BUFFER, scope.put(dy), scope.put(x), scope.put(gain), rows, dim, 1e-2);
        assertSameBits(scope.floats(alone, rows * dim), scope.floats(dx, rows * dim), 'dx without dgain');
      });
    });
  }

  test('ropeBatch rotates every sequence from position 0, and its inverse is both the way back and the gradient', () => {
    const [batch, tokens, heads, headDim] = [3, 5, 2, 20];
    const length = batch * tokens * heads * headDim;
    const next = random(20);
    const [x, y] = [floats(next, length), floats(next, length)];
    const angle = (position: number, i: number): number => position / 10 ** (i / 5);
    const table = (of: (angle: number) => number): Float32Array =>
      Float32Array.from({ length: (tokens * headDim) / 2 }, (_, i) =>
        of(angle(Math.floor(i / (headDim / 2)), i % (headDim / 2))),
      );
    scoped((scope) => {
      const [cos, sin] = [scope.put(table(Math.cos)), scope.put(table(Math.sin))];
      const rotated = (values: Float32Array, inverse: boolean): Float32Array => {
        const handle = scope.put(values);
        native.ropeBatch(handle, cos, sin, batch, tokens, heads, headDim, inverse);
        return scope.floats(handle, length);
      };
      const forward = rotated(x, false);
      const sequence = tokens * heads * headDim;
      for (let b = 0; b < batch; b++) {
        const part = x.slice(b * sequence, (b + 1) * sequence);
        const expected = reference.rope(part, angle, 0, tokens, heads, headDim);
        assert.ok(relativeError(forward.slice(b * sequence, (b + 1) * sequence), expected) < 1e-6);
      }
      assert.ok(relativeError(rotated(forward, true), x) < 1e-6, 'back');
      // A rotation is linear, so its gradient is its transpose: ⟨R x, y⟩ = ⟨x, Rᵀ y⟩.
      const [left, right] = [gradients.dot(forward, y), gradients.dot(x, rotated(y, true))];
      assert.ok(Math.abs(left - right) < 1e-4, `${left} and ${right}`);
    });
  });

  test('siluMulBackward equals finite differences, in place or apart, up to large gates', () => {
    for (const n of [1, 7, 37, 100]) {
      const next = random(n);
      const gate = floats(next, n).map((x) => x * 10);
      const [up, dout] = [floats(next, n), floats(next, n)];
      const loss = (a: ArrayLike<number>, b: ArrayLike<number>): number => gradients.dot(gradients.siluMul(a, b), dout);
      scoped((scope) => {
        const [dgate, dup] = [scope.put(dout), scope.room(n * 4)];
        native.siluMulBackward(dgate, dup, dgate, scope.put(gate), scope.put(up), n);
        const expected = gradients.numericGradient((a) => loss(a, up), gate);
        assert.ok(relativeError(scope.floats(dgate, n), expected) < 2e-6);
        assert.ok(
          relativeError(
            scope.floats(dup, n),
            gradients.numericGradient((b) => loss(gate, b), up),
          ) < 1e-6,
        );
        const apart = scope.room(n * 4);
        native.siluMulBackward(apart, dup, scope.put(dout), scope.put(gate), scope.put(up), n);
        assertSameBits(scope.floats(apart, n), scope.floats(dgate, n), 'apart');
      });
    }
    scoped((scope) => {
      const [dgate, dup] = [scope.room(8), scope.room(8)];
      const ones = scope.put(Float32Array.of(1, 1));
      native.siluMulBackward(dgate, dup, ones, scope.put(Float32Array.of(-200, 200)), ones, 2);
      const received = [...scope.floats(dgate, 2), ...scope.floats(dup, 2)];
      [0, 1, 0, 200].forEach((expected, i) => assert.ok(Math.abs((received[i] ?? NaN) - expected) < 1e-30));
    });
  });

  for (const [vocab, klWeight] of [
    [1, 0],
    [5, 0],
    [39, 0.5],
    [100, 1],
    [1100, 0.25],
  ] as const) {
    test(`lossBackward over ${vocab} logits with KL weight ${klWeight} returns both losses and their gradient`, () => {
      const [rows, total] = [3, 7];
      const next = random(vocab);
      const logits = floats(next, rows * vocab).map((x) => x * 8);
      const teacher = klWeight > 0 ? floats(next, rows * vocab).map((x) => x * 8) : undefined;
      const targets = Int32Array.from({ length: rows }, () => Math.floor(next() * vocab));
      const mixed = (x: ArrayLike<number>): number => {
        const { lm, kl } = gradients.losses(x, teacher, targets, vocab);
        return ((1 - klWeight) * lm + klWeight * kl) / total;
      };
      scoped((scope) => {
        const handle = scope.put(logits);
        const teacherHandle = teacher ? scope.put(teacher) : NO_BUFFER;
        const { lm, kl } = native.lossBackward(handle, teacherHandle, targets, rows, vocab, klWeight, total);
        const expected = gradients.losses(logits, teacher, targets, vocab);
        assert.ok(Math.abs(lm - expected.lm) <= 1e-5 * expected.lm, `lm ${lm}, expected ${expected.lm}`);
        assert.ok(Math.abs(kl - expected.kl) <= 1e-5 * expected.kl, `kl ${kl}, expected ${expected.kl}`);
        const received = scope.floats(handle, rows * vocab);
        const gradient =
          vocab > 200
            ? analytic(logits, teacher, targets, vocab, klWeight, total)
            : gradients.numericGradient(mixed, logits);
        const error = vocab === 1 ? Math.max(...received.map(Math.abs)) : relativeError(received, gradient);
        assert.ok(error < 3e-6, `error ${error}`);
      });
    });
  }

  test('a teacher without weight is measured and changes nothing', () => {
    const [rows, vocab] = [4, 50];
    const next = random(30);
    const [logits, teacher] = [floats(next, rows * vocab), floats(next, rows * vocab)];
    const targets = Int32Array.of(0, 49, 7, 7);
    scoped((scope) => {
      const [alone, beside] = [scope.put(logits), scope.put(logits)];
      const lm = native.lossBackward(alone, NO_BUFFER, targets, rows, vocab, 0, rows);
      const both = native.lossBackward(beside, scope.put(teacher), targets, rows, vocab, 0, rows);
      assert.equal(both.lm, lm.lm);
      assert.equal(lm.kl, 0);
      assert.ok(Math.abs(both.kl - gradients.losses(logits, teacher, targets, vocab).kl) < 1e-5);
      assert.ok(relativeError(scope.floats(beside, rows * vocab), scope.floats(alone, rows * vocab)) < 1e-6);
    });
  });

  test('a NaN among the logits makes the loss NaN, and logits of minus infinity count as impossible', () => {
    scoped((scope) => {
      const row = new Float32Array(40);
      row[3] = -Infinity;
      const fine = native.lossBackward(scope.put(row), scope.put(row), Int32Array.of(0), 1, 40, 0, 1);
      assert.ok(Math.abs(fine.lm - Math.log(39)) < 1e-6);
      row[39] = NaN;
      assert.ok(Number.isNaN(native.lossBackward(scope.put(row), NO_BUFFER, Int32Array.of(0), 1, 40, 0, 1).lm));
    });
  });

  test('gradients and losses have the same bits on any number of threads', () => {
    const [rows, dim] = [3000, 40];
    const next = random(40);
    const [x, dy, gain] = [floats(next, rows * dim), floats(next, rows * dim), floats(next, dim)];
    const targets = Int32Array.from({ length: rows }, () => Math.floor(next() * dim));
    scoped((scope) => {
      const runs = [1, 2, 5].map((threads) => {
        native.setThreads(threads);
        const [dx, dgain, logits] = [scope.room(rows * dim * 4), scope.room(dim * 4), scope.put(x)];
        native.rmsnormBackward(dx, dgain, scope.put(dy), scope.put(x), scope.put(gain), rows, dim, 1e-5);
        const loss = native.lossBackward(logits, scope.put(dy), targets, rows, dim, 0.5, rows);
        return {
          dx: scope.floats(dx, rows * dim),
          dgain: scope.floats(dgain, dim),
          logits: scope.floats(logits, rows * dim),
          loss: Float64Array.of(loss.lm, loss.kl),
        };
      });
      native.setThreads(0);
      const [one] = runs;
      assert.ok(one);
      for (const other of runs) {
        for (const name of ['dx', 'dgain', 'logits', 'loss'] as const) assertSameBits(other[name], one[name], name);
      }
    });
  });

  test('what can’t be right is refused by name', () => {
    scoped((scope) => {
      const [a, b, c] = [scope.room(64), scope.room(64), scope.room(64)];
      const norm = (dx: Handle, dgain: Handle, eps: number): void =>
        native.rmsnormBackward(dx, dgain, b, c, gainOf(scope), 4, 4, eps);
      assert.throws(() => norm(b, NO_BUFFER, 0), /rmsnormBackward: expected dx and dy to be apart/);
      assert.throws(() => norm(a, c, 0), /rmsnormBackward: expected dgain and x to be apart/);
      assert.throws(() => norm(a, NO_BUFFER, -1), /rmsnormBackward: expected eps of at least 0 but received -1/);
      assert.throws(
        () => native.ropeBatch(a, b, c, 1, 1, 1, 3, false),
        /ropeBatch: expected headDim to be even but received 3/,
      );
      assert.throws(
        () => native.ropeBatch(a, b, c, 1, 9, 1, 2, false),
        /expected x of at least B·T·heads·hd·4 = 72 bytes/,
      );
      assert.throws(
        () => native.siluMulBackward(a, a, b, c, c, 4),
        /siluMulBackward: expected dgate and dup to be apart/,
      );
      assert.throws(
        () => native.siluMulBackward(a, b, b, c, c, 4),
        /siluMulBackward: expected dup and dout to be apart/,
      );
      const loss = (teacher: Handle, targets: Int32Array, klWeight: number, total = 4): unknown =>
        native.lossBackward(a, teacher, targets, 4, 4, klWeight, total);
      const targets = Int32Array.of(0, 1, 2, 3);
      assert.throws(() => loss(NO_BUFFER, targets, 0.5), /lossBackward: expected teacher to name a live buffer/);
      assert.throws(() => loss(b, targets, 1.5), /lossBackward: expected klWeight in \[0, 1\] but received 1.5/);
      assert.throws(() => loss(a, targets, 1), /lossBackward: expected logits and teacher to be apart/);
      assert.throws(() => loss(b, targets, 1, 0), /expected totalRows to be an integer of at least 1/);
      assert.throws(() => loss(b, Int32Array.of(0, 1), 1), /expected targets of rows = 4 elements but received 2/);
      assert.throws(
        () => loss(b, Int32Array.of(0, 1, 4, 0), 1),
        /expected targets in \[0, V = 4\) but received 4 at 2/,
      );
    });
  });
});

function gainOf(scope: Scope): Handle {
  return scope.put(Float32Array.of(1, 1, 1, 1));
}

function plus(a: Float64Array, b: Float32Array): Float64Array {
  return a.map((value, i) => value + (b[i] ?? NaN));
}

/** (softmax − (1 − a)·onehot − a·softmax(teacher)) / total, in fp64. */
function analytic(
  logits: Float32Array,
  teacher: Float32Array | undefined,
  targets: Int32Array,
  vocab: number,
  klWeight: number,
  total: number,
): Float64Array {
  const out = new Float64Array(logits.length);
  targets.forEach((target, r) => {
    const row = (from: Float32Array): Float64Array =>
      gradients.logSoftmax(from.subarray(r * vocab, (r + 1) * vocab)).map(Math.exp);
    const teacherRow = teacher && row(teacher);
    row(logits).forEach((p, i) => {
      const pull = (i === target ? 1 - klWeight : 0) + klWeight * (teacherRow?.[i] ?? 0);
      out[r * vocab + i] = (p - pull) / total;
    });
  });
  return out;
}
