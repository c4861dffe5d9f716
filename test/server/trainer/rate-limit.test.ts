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
  assert.ok(Math.abs(started.memory.bytesPerWeight - 20.125) < 0.2, 'the start is kept beside the scores');
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

test('the paper’s method refuses both', async () => {
  const expected = /expected --method ste beside --rate or --max-bits/;
  await assert.rejects(run(model, request({ method: 'gumbel', rate: 1 })), expected);
  await assert.rejects(run(model, request({ method: 'gumbel', maxBits: 0.1 })), expected);
});
