/** Swap refinement of a prior on the layer's Hessian. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { native } from '../../../kernels/index.js';
import { loadModel, type Model } from '../../../server/engine/model.js';
import { Random } from '../../../server/engine/random.js';
import { sampleWindows } from '../../../server/trainer/calibrate.js';
import { codesOfSet } from '../../../server/trainer/nibbles.js';
import { oneShotMask } from '../../../server/trainer/one-shot.js';
import { refineMasks, refineMatrix } from '../../../server/trainer/refine.js';
import { TINY } from '../../tiny.js';
import { request, run } from './runs.js';

const [ROWS, COLS] = [4, 16];

let model: Model;
const usage = native.usage();
before(() => {
  model = loadModel(TINY, { threads: 2 });
});
after(() => {
  model.dispose();
  assert.deepEqual(native.usage(), usage, 'every buffer is given back');
});

/** XᵀX of 64 random inputs that are correlated, so that neighbours can stand in for each other. */
function hessian(random: Random): Float64Array {
  const h = new Float64Array(COLS * COLS);
  for (let t = 0; t < 64; t++) {
    const shared = random.uniform() - 0.5;
    const x = Array.from({ length: COLS }, () => shared + random.uniform() - 0.5);
    for (let i = 0; i < COLS * COLS; i++) h[i]! += (x[Math.floor(i / COLS)] as number) * (x[i % COLS] as number);
  }
  return h;
}

/** eᵀHe by its definition. */
function errorOf(weights: Float32Array, nibbles: Uint8Array, h: Float64Array): number {
  let sum = 0;
  for (let r = 0; r < ROWS; r++) {
    const e = Array.from({ length: COLS }, (_, i) => (keeps(nibbles, r, i) ? 0 : (weights[r * COLS + i] as number)));
    e.forEach((a, i) => e.forEach((b, j) => (sum += a * b * (h[i * COLS + j] as number))));
  }
  return sum;
}

function nibbleAt(nibbles: Uint8Array, group: number): number {
  return ((nibbles[group >> 1] as number) >> ((group & 1) * 4)) & 15;
}

function keeps(nibbles: Uint8Array, row: number, column: number): boolean {
  const nibble = nibbleAt(nibbles, (row * COLS + column) >> 2);
  return (nibble & 3) === (column & 3) || nibble >> 2 === (column & 3);
}

test('refined to the end, no exchange within a group lowers a layer’s error, which is reported as it is', () => {
  const random = new Random(7);
  const h = hessian(random);
  const weights = Float32Array.from({ length: ROWS * COLS }, () =>
    Math.fround(Math.round((random.uniform() - 0.5) * 128) / 128),
  );
  const [f32, weight] = [native.alloc(weights.byteLength), native.alloc(weights.length * 2)];
  try {
    native.write(f32, 0, weights);
    native.toBf16(weight, f32, 'f32', weights.length);
    const start = new Uint8Array((ROWS * COLS) / 8).fill(0x44); // the first two of each group
    const { nibbles, swaps, errorBefore, errorAfter } = refineMatrix({ weight, rows: ROWS, cols: COLS }, start, h, 100);
    assert.ok(swaps > 0);
    const near = (a: number, b: number): void => assert.ok(Math.abs(a - b) < 1e-9 * Math.abs(b), `${a} ${b}`);
    near(errorBefore, errorOf(weights, start, h));
    near(errorAfter, errorOf(weights, nibbles, h));
    assert.ok(errorAfter < errorBefore);
    for (let group = 0; group < (ROWS * COLS) / 4; group++) {
      for (const nibble of [4, 8, 12, 9, 13, 14]) {
        const now = nibbleAt(nibbles, group);
        const shared = [now & 3, now >> 2].filter((position) => [nibble & 3, nibble >> 2].includes(position));
        if (shared.length !== 1) continue;
        const other = nibbles.slice();
        const shift = (group & 1) * 4;
        other[group >> 1] = ((other[group >> 1] as number) & ~(15 << shift)) | (nibble << shift);
        assert.ok(errorOf(weights, other, h) >= errorAfter * (1 - 1e-9), `group ${group} to ${nibble}`);
      }
    }
    const again = refineMatrix({ weight, rows: ROWS, cols: COLS }, nibbles, h, 100);
    assert.equal(again.swaps, 0);
    assert.deepEqual(again.nibbles, nibbles);
  } finally {
    native.free(f32);
    native.free(weight);
  }
});

test('on the embedded model more rounds leave less error, from SparseGPT’s mask as from magnitude’s', () => {
  const stream = Int32Array.from({ length: 2000 }, (_, i) => 3 + ((i * i + 7 * i) % 500));
  const windows = sampleWindows([stream], 4, 64, 0);
  for (const method of ['sparsegpt', 'magnitude'] as const) {
    const start = codesOfSet(model, oneShotMask(model, { method, windows, damp: 0.01 }));
    const once = refineMasks(model, model, start, windows, 1);
    const more = refineMasks(model, model, start, windows, 3);
    assert.equal(once.errorBefore, more.errorBefore);
    assert.ok(once.errorAfter < once.errorBefore && more.errorAfter < once.errorAfter, method);
    assert.deepEqual(refineMasks(model, model, start, windows, 0).nibbles, start);
  }
});

test('a run refines its prior before the first step', async () => {
  const still = { steps: 1, learningRate: 1e-9, prior: 'wanda' } as const;
  const plain = await run(model, request(still));
  const refined = await run(model, request({ ...still, refine: 2 }));
  assert.equal(refined.finished.changed, 0, 'changes count from the refined prior');
  assert.notDeepEqual(refined.set.masks, plain.set.masks);
});
