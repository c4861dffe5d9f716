/** A run that was stopped goes on to the same losses and the same mask, bit for bit; one that differs is refused by the field. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { native } from '../../../kernels/index.js';
import { loadModel, type Model } from '../../../server/engine/model.js';
import { removeCheckpoint } from '../../../server/trainer/checkpoint.js';
import { oneShotMask } from '../../../server/trainer/one-shot.js';
import { TrainingStopped } from '../../../server/trainer/run-steps.js';
import type { TrainMethod, TrainRequest, TrainStep } from '../../../server/trainer/types.js';
import { TINY } from '../../tiny.js';
import { DOCUMENTS, losses, request, run } from './runs.js';

const folder = mkdtempSync(join(tmpdir(), 'maskserve-resume-'));
const usage = native.usage();
let model: Model;
before(() => {
  model = loadModel(TINY, { threads: 2 });
});
after(() => {
  model.dispose();
  rmSync(folder, { recursive: true });
  assert.deepEqual(native.usage(), usage, 'every buffer is given back');
});

/** Runs until `step` is done, then stops; the state is saved. */
async function stoppedAfter(step: number, wanted: TrainRequest, directory: string): Promise<TrainStep[]> {
  const controller = new AbortController();
  const seen: TrainStep[] = [];
  const options = { signal: controller.signal, checkpoint: { directory, every: 0, resume: false } };
  const stopped = run(model, wanted, options, (event) => {
    seen.push(event);
    if (event.step === step) controller.abort();
  });
  await assert.rejects(stopped, (error) => {
    assert.ok(error instanceof TrainingStopped);
    assert.match(error.message, new RegExp(`^training stopped after step ${step} of 6; saved in `));
    return true;
  });
  return seen;
}

for (const method of ['ste', 'gumbel'] satisfies TrainMethod[]) {
  test(`${method}: stopped after two of six steps and resumed, it is the run that was never stopped`, async () => {
    const wanted = request({ method, steps: 6, learningRate: 5e-3, loss: 'mix', evaluateEvery: 2 });
    const whole = await run(model, wanted);
    const directory = join(folder, method);
    const before = await stoppedAfter(2, wanted, directory);
    const resumed = await run(model, wanted, { checkpoint: { directory, every: 0, resume: true } });
    assert.equal(resumed.started.resumedFrom, 2);
    assert.deepEqual(losses([...before, ...resumed.steps]), losses(whole.steps));
    assert.deepEqual(resumed.set, whole.set);
    assert.deepEqual({ ...resumed.finished, seconds: 0 }, { ...whole.finished, seconds: 0 });
  });
}

test('a finished run can be taken up again: nothing is learned, the same mask comes out', async () => {
  const wanted = request({ steps: 2 });
  const directory = join(folder, 'finished');
  const first = await run(model, wanted, { checkpoint: { directory, every: 0, resume: false } });
  const again = await run(model, { ...wanted, force: true }, { checkpoint: { directory, every: 0, resume: true } });
  assert.deepEqual(again.steps, []);
  assert.deepEqual(again.set, first.set);
  removeCheckpoint(directory);
  assert.equal(existsSync(directory), false);
});

test('checkpoints replace each other whole: one file is there, nothing half written', async () => {
  const directory = join(folder, 'every');
  await run(model, request({ steps: 3 }), { checkpoint: { directory, every: 1, resume: false } });
  assert.deepEqual(readdirSync(directory), ['checkpoint.safetensors']);
});

test('resuming with other options, text or start is refused with the field', async () => {
  const directory = join(folder, 'other');
  const wanted = request({ steps: 6 });
  await stoppedAfter(1, wanted, directory);
  const checkpoint = { directory, every: 0, resume: true };
  const other = request({}, { sources: [{ name: 'cats.txt', documents: DOCUMENTS.slice(1) }] }).sources;
  const parent = oneShotMask(model, { method: 'magnitude', windows: [], damp: 0.01 });
  const cases: [() => Promise<unknown>, RegExp][] = [
    [
      () => run(model, request({ steps: 8 }), { checkpoint }),
      /can't resume from .*: steps was 6 and is now 8; give the same options/,
    ],
    [() => run(model, request({ steps: 6, travel: 3 }), { checkpoint }), /: travel was 10.7 and is now 3;/],
    [
      () => run(model, request({ steps: 6, keepDense: ['last:1'] }), { checkpoint }),
      /: keepDense was \[\] and is now \["last:1"\]/,
    ],
    [() => run(model, request({ steps: 6, separator: 5 }), { checkpoint }), /: separator was not given and is now 5/],
    [
      () => run(model, { ...wanted, sources: other }, { checkpoint }),
      /: text was "[0-9a-f]{64}" and is now "[0-9a-f]{64}"/,
    ],
    [
      () => run(model, { ...wanted, from: 'general' }, { checkpoint, parent }),
      /: from was null and is now "[0-9a-f]{64}"/,
    ],
    [
      () => run(model, wanted, { checkpoint: { ...checkpoint, resume: false } }),
      /holds the state of an earlier run: go on with it by --resume /,
    ],
    [
      () => run(model, wanted, { checkpoint: { ...checkpoint, directory: join(folder, 'nowhere') } }),
      /expected a checkpoint in .*nowhere, but there is none; check --resume/,
    ],
  ];
  for (const [start, message] of cases) await assert.rejects(start, message);
});

test('a damaged checkpoint is said to be one', async () => {
  const directory = join(folder, 'damaged');
  const wanted = request({ steps: 6 });
  await stoppedAfter(1, wanted, directory);
  truncateSync(join(directory, 'checkpoint.safetensors'), 1 << 20);
  await assert.rejects(
    run(model, wanted, { checkpoint: { directory, every: 0, resume: true } }),
    /the checkpoint .* has no room for its tensor .*: it is damaged; start the run anew/,
  );
  truncateSync(join(directory, 'checkpoint.safetensors'), 6);
  await assert.rejects(
    run(model, wanted, { checkpoint: { directory, every: 0, resume: true } }),
    /is cut off: it is damaged/,
  );
});
