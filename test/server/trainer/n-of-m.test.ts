/** 1:4 and 4:8: chosen, learned and scored as masked dense weights. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { contentDigest } from '../../../codec/content-digest.js';
import { decodeMaskSet } from '../../../codec/decode.js';
import { encodeMaskSet } from '../../../codec/encode.js';
import { nibblesToSymbols, patternTable } from '../../../codec/pattern.js';
import { native } from '../../../kernels/index.js';
import { tokenStream } from '../../../server/engine/evaluate.js';
import { loadModel, type Model } from '../../../server/engine/model.js';
import { Random } from '../../../server/engine/random.js';
import { perplexities } from '../../../server/trainer/held-out.js';
import { maskedLayersOf } from '../../../server/trainer/kept-dense.js';
import { bestPatterns, patternNamed, patternOf, TWO_OF_FOUR } from '../../../server/trainer/n-of-m.js';
import { byMatrix, codesOfSet } from '../../../server/trainer/nibbles.js';
import { ONE_SHOT_METHODS, oneShotMask } from '../../../server/trainer/one-shot.js';
import { rateOf } from '../../../server/trainer/rate.js';
import { InputHessian } from '../../../server/trainer/sparsegpt.js';
import type { MaskPattern, TrainMethod } from '../../../server/trainer/types.js';
import { TINY } from '../../tiny.js';
import { DOCUMENTS, request, run } from './runs.js';

let model: Model;
const usage = native.usage();
before(() => {
  model = loadModel(TINY, { threads: 2 });
});
after(() => {
  model.dispose();
  assert.deepEqual(native.usage(), usage, 'every buffer is given back');
});

const OTHERS: readonly MaskPattern[] = ['1:4', '4:8'];

test('the best pattern keeps the n largest scores, the earlier of equals', () => {
  const random = new Random(3);
  for (const [n, m] of [
    [1, 4],
    [2, 4],
    [4, 8],
  ] as const) {
    const pattern = patternTable(n, m);
    const scores = Float32Array.from({ length: 200 * m }, () => Math.round(random.uniform() * 6));
    const symbols = new Uint8Array(200);
    bestPatterns(pattern, scores, symbols);
    symbols.forEach((symbol, group) => {
      const order = Array.from({ length: m }, (_, j) => j).sort(
        (a, b) => (scores[group * m + b] as number) - (scores[group * m + a] as number) || a - b,
      );
      assert.deepEqual(
        pattern.positions[symbol],
        order.slice(0, n).sort((a, b) => a - b),
      );
    });
  }
});

const [ROWS, COLS, TOKENS] = [24, 64, 200];

/** Weights, and the Gram matrix of inputs that are correlated; column 5 never has any. */
function layer(): { bits: Uint16Array; gram: Float64Array } {
  const random = new Random(11);
  const gram = new Float64Array(COLS * COLS);
  for (let t = 0; t < TOKENS; t++) {
    const shared = random.uniform() - 0.5;
    const x = Array.from({ length: COLS }, (_, i) => (i === 5 ? 0 : shared + random.uniform() - 0.5));
    for (let i = 0; i < COLS * COLS; i++) gram[i]! += (x[Math.floor(i / COLS)] as number) * (x[i % COLS] as number);
  }
  const floats = Float32Array.from({ length: ROWS * COLS }, () => random.uniform() - 0.5);
  return { bits: Uint16Array.from(new Uint32Array(floats.buffer), (word) => word >>> 16), gram };
}

test('SparseGPT by plain loops is the kernel’s: the same mask, the same updated weights', () => {
  const { bits, gram } = layer();
  const weight = native.alloc(bits.byteLength);
  const sums = native.alloc(gram.byteLength);
  const meta = native.alloc((ROWS * COLS) / 8);
  const updated = native.alloc(bits.byteLength);
  native.write(weight, 0, bits);
  native.write(sums, 0, gram);
  native.sparsegpt24(meta, updated, weight, sums, TOKENS, ROWS, COLS, 0.01);
  const [nibbles, words] = [new Uint8Array((ROWS * COLS) / 8), new Uint16Array(ROWS * COLS)];
  native.read(meta, 0, nibbles);
  native.read(updated, 0, words);
  const pruned = new InputHessian(gram, TOKENS, COLS, 0.01).prune({ weight, rows: ROWS }, TWO_OF_FOUR);
  for (const handle of [weight, sums, meta, updated]) native.free(handle);
  assert.deepEqual(pruned.symbols, nibblesToSymbols(nibbles));
  const theirs = new Float32Array(Uint32Array.from(words, (word) => word << 16).buffer);
  pruned.updated.forEach((value, i) => {
    assert.ok(Math.abs(value - (theirs[i] as number)) <= 2 ** -8 * Math.abs(value) + 1e-6, `${i}: ${value}`);
  });
});

test('every one-shot prior: keeping a quarter costs more than keeping half, and 4:8 is chosen as freely as it can be', () => {
  const ids = tokenStream(model, DOCUMENTS, { bos: true, limit: 12 * 64 + 1 });
  const windows = Array.from({ length: 12 }, (_, i) => ids.subarray(i * 64, (i + 1) * 64 + 1));
  const texts = [{ source: 'cats', guard: false, windows: windows.slice(8) }];
  for (const method of ONE_SHOT_METHODS) {
    const losses = (['4:8', '2:4', '1:4'] as const).map((name) => {
      const masked = maskedLayersOf(model, ['first:4'], patternNamed(name));
      const pattern = patternOf(masked);
      const set = oneShotMask(masked, { method, windows: windows.slice(0, 8), damp: 0.01, pattern });
      if (name === '4:8') assert.ok(set.masks.every(({ symbols }) => new Set(symbols).size === 70));
      return perplexities(masked, texts, 64, byMatrix(codesOfSet(masked, set)))[0] as number;
    });
    const [wide, half, quarter] = losses as [number, number, number];
    assert.ok(Math.abs(wide / half - 1) < 0.3 && quarter > 2 * half, `${method}: ${losses.join(' ')}`);
  }
});

for (const pattern of OTHERS) {
  for (const method of ['gumbel', 'ste'] as const satisfies readonly TrainMethod[]) {
    test(`${method} learns a ${pattern} mask, which a container holds and a run can start from`, async () => {
      const wanted = { pattern, method, steps: 6, learningRate: 8e-3, keepDense: ['first:5'] };
      const { steps, finished, set, started } = await run(model, request(wanted));
      assert.ok((steps.at(-1)?.lm as number) < (steps[0]?.lm as number));
      const [row] = finished.heldOut;
      assert.ok(row && row.mask < row.prior, JSON.stringify(row));
      assert.equal(`${set.n}:${set.m}`, pattern);
      assert.equal(contentDigest(decodeMaskSet(encodeMaskSet(set))), contentDigest(set));
      const { count, m } = patternTable(set.n, set.m);
      assert.equal(started.memory.bytesPerWeight, method === 'gumbel' ? (16 * count) / m + 2 : 14);
      const more = request({ ...wanted, steps: 1, learningRate: 1e-9 }, { from: 'it' });
      const next = await run(model, more, { parent: set });
      assert.equal(next.set.parent, contentDigest(set));
      if (method === 'ste') assert.deepEqual(next.set.masks, set.masks);
      assert.ok(Math.abs((next.finished.heldOut[0]?.prior as number) / row.mask - 1) < 1e-6);
    });
  }
}

test('bits count for the patterns that there are: a bound holds, the rate is the conditional entropy', async () => {
  const maxBits = 0.002;
  const { finished } = await run(
    model,
    request({ pattern: '4:8', steps: 6, learningRate: 8e-3, keepDense: ['first:5'], maxBits }),
  );
  assert.ok(finished.changed > 0 && finished.bitsPerParameter <= maxBits, String(finished.bitsPerParameter));
  const rate = rateOf(Uint8Array.of(69, 69, 3, 3), Uint8Array.of(69, 68, 3, 3), patternTable(4, 8));
  assert.deepEqual(rate, { groups: 4, changed: 1, bits: 2 });
});

test('what is for 2:4 alone is refused with one line', async () => {
  const parent = oneShotMask(model, { method: 'magnitude', windows: [], damp: 0 });
  await assert.rejects(run(model, request({ pattern: '1:4', refine: 3 })), /expected --pattern 2:4 beside --refine/);
  await assert.rejects(
    run(model, request({ pattern: '1:4' }, { from: 'it' }), { parent }),
    /expected a 1:4 mask to start from, but it is 2:4/,
  );
});
