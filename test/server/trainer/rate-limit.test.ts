/** What leaving the start costs: λ and a bound on bits per parameter. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { native } from '../../../kernels/index.js';
import { loadModel, type Model } from '../../../server/engine/model.js';
import { TrainingStopped } from '../../../server/trainer/run-steps.js';
import { TINY } from '../../tiny.js';
import { losses, request, run } from './runs.js';

/** About two margins in ten steps, and gradients that differ count differently. */
const FAR = { learningRate: 5e-3, epsilon: 1e-6 } as const;

let model: Model;
const usage = native.usage();
const folder = mkdtempSync(join(tmpdir(), 'maskserve-rate-'));
before(() => {
  model = loadModel(TINY, { threads: 2 });
});
after(() => {
  rmSync(folder, { recursive: true });
  model.dispose();
  assert.deepEqual(native.usage(), usage, 'every buffer is given back');
});

test('the higher λ, the fewer bits the mask costs given its start, down to none', async () => {
  const bits: number[] = [];
  for (const rate of [0, 0.1, 0.2, 5]) {
    bits.push((await run(model, request({ ...FAR, rate }))).finished.bitsPerParameter);
  }
  const [free = 0, light = 0, heavy = 0, all = 0] = bits;
  assert.ok(free > light && light > heavy && heavy >= all, bits.join(' '));
  assert.equal(all, 0, 'a pull by the whole way at most steps');
});

test('a bound on bits per parameter holds at every look, is used, and still lets the mask learn', async () => {
  const maxBits = 0.02;
  const free = await run(model, request(FAR));
  const { steps, finished, started } = await run(model, request({ ...FAR, maxBits, evaluateEvery: 1 }));
  for (const { step, bitsPerParameter } of steps) assert.ok((bitsPerParameter ?? 1) <= maxBits, `step ${step}`);
  assert.ok(free.finished.bitsPerParameter > 2 * maxBits, 'without it the mask costs more');
  assert.ok((steps.at(-1)?.bitsPerParameter as number) > maxBits / 2);
  const [row] = finished.heldOut;
  assert.ok(row && row.mask < row.prior, JSON.stringify(row));
  assert.ok(Math.abs(started.memory.bytesPerWeight - 16.125) < 0.2, 'the start is kept beside the scores');
});

test('a bound of 0 keeps the start', async () => {
  const { finished } = await run(model, request({ maxBits: 0, steps: 4 }));
  assert.equal(finished.changed, 0);
});

test('stopped and resumed under both, it is the run that was never stopped', async () => {
  const wanted = request({ ...FAR, rate: 0.05, maxBits: 0.02, evaluateEvery: 4 });
  const whole = await run(model, wanted);
  const directory = join(folder, 'checkpoint');
  const controller = new AbortController();
  const stopped = run(
    model,
    wanted,
    { signal: controller.signal, checkpoint: { directory, every: 0, resume: false } },
    ({ step }) => {
      if (step === 6) controller.abort();
    },
  );
  await assert.rejects(stopped, TrainingStopped);
  const rest = await run(model, wanted, { checkpoint: { directory, every: 0, resume: true } });
  assert.equal(rest.started.resumedFrom, 6);
  assert.deepEqual(losses(rest.steps), losses(whole.steps.slice(6)));
  assert.deepEqual(rest.set.masks, whole.set.masks);
});

test('the paper’s method is pulled to the pattern of its prior: fewer bits the higher λ, and a bound holds', async () => {
  const gumbel = { ...FAR, method: 'gumbel', steps: 5, keepDense: ['first:4'], evaluateEvery: 1 } as const;
  const bits: number[] = [];
  for (const rate of [0, 0.5, 1e6]) {
    bits.push((await run(model, request({ ...gumbel, rate }))).steps.at(-1)?.bitsPerParameter ?? NaN);
  }
  const [free = 0, pulled = 0, all = 1] = bits;
  assert.ok(free > pulled && pulled > all, bits.join(' '));
  assert.equal(all, 0, 'even the noise that they start with is gone');
  const bounded = await run(model, request({ ...gumbel, maxBits: 0.05 }));
  for (const { step, bitsPerParameter } of bounded.steps) assert.ok((bitsPerParameter ?? 1) <= 0.05, `step ${step}`);
  assert.ok(bounded.finished.changed > 0);
  const { bytesPerWeight } = bounded.started.memory;
  assert.ok(bytesPerWeight >= 26 + 3 && bytesPerWeight < 30, String(bytesPerWeight));
});

test('stopped and resumed under λ, the paper’s method is the run that was never stopped', async () => {
  const wanted = request({ ...FAR, method: 'gumbel', steps: 4, keepDense: ['first:5'], rate: 0.5, evaluateEvery: 2 });
  const whole = await run(model, wanted);
  const checkpoint = { directory: join(folder, 'gumbel'), every: 0 };
  const controller = new AbortController();
  const options = { signal: controller.signal, checkpoint: { ...checkpoint, resume: false } };
  const stopped = run(model, wanted, options, ({ step }) => {
    if (step === 2) controller.abort();
  });
  await assert.rejects(stopped, TrainingStopped);
  const rest = await run(model, wanted, { checkpoint: { ...checkpoint, resume: true } });
  assert.deepEqual(losses(rest.steps), losses(whole.steps.slice(2)));
});

test('without a prior there is nothing to be pulled to', async () => {
  const expected = /expected a prior, and a --prior-strength above 0, beside --rate or --max-bits/;
  await assert.rejects(run(model, request({ method: 'gumbel', prior: 'none', rate: 1 })), expected);
  await assert.rejects(run(model, request({ method: 'gumbel', priorStrength: 0, maxBits: 0.1 })), expected);
});
