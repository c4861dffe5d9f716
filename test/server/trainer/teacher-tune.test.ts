/** A teacher out of the run's own text: it is better there than the dense model, can be saved, and survives being stopped at any time. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { native } from '../../../kernels/index.js';
import { loadModel, type Model } from '../../../server/engine/model.js';
import { removeCheckpoint } from '../../../server/trainer/checkpoint.js';
import { PREPARE_DEFAULTS } from '../../../server/trainer/defaults.js';
import { oneShotMask } from '../../../server/trainer/one-shot.js';
import { runPrepare } from '../../../server/trainer/prepare.js';
import { TrainingStopped } from '../../../server/trainer/run-steps.js';
import type { TunedTeacher } from '../../../server/trainer/teacher.js';
import type { TrainStep } from '../../../server/trainer/types.js';
import { TINY } from '../../tiny.js';
import { DOCUMENTS, losses, request, run, type Run } from './runs.js';

const folder = mkdtempSync(join(tmpdir(), 'maskserve-tune-'));
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

const TEACHER: TunedTeacher = { kind: 'tuned', rank: 4, steps: 15, learningRate: 5e-3 };
const WANTED = request({ loss: 'kl', steps: 4 });
const shared: { whole?: Run } = {};

test('it learns the text of the run, and the run distils from it', async () => {
  const save = join(folder, 'saved');
  const whole = await run(model, WANTED, { teacher: { ...TEACHER, save } });
  shared.whole = whole;
  const dense = whole.finished.heldOut[0]?.dense as number;
  const { perplexity, bytes } = whole.started.teacher as { perplexity: number; bytes: number };
  assert.ok(perplexity < dense / 4, `${dense} → ${perplexity}`);
  assert.equal(bytes, 2 * 4_423_680);
  const again = await run(model, WANTED, { teacher: { kind: 'given', directory: save } });
  assert.deepEqual(losses(again.steps), losses(whole.steps), 'saved, it is the same teacher, bit for bit');
  assert.deepEqual(again.set, whole.set);
});

test('stopped while it is tuned and resumed, the run is the one that was never stopped', async () => {
  const checkpoint = { directory: join(folder, 'early'), every: 0, resume: false };
  const controller = new AbortController();
  const onProgress = (stage: string, done: number): void => {
    if (stage === 'tuning the teacher' && done === 6) controller.abort();
  };
  const options = { teacher: TEACHER, checkpoint };
  await assert.rejects(run(model, WANTED, { ...options, signal: controller.signal, onProgress }), (error) => {
    assert.ok(error instanceof TrainingStopped);
    assert.match(error.message, /stopped after step 6 of 15; saved in .*early$/);
    return true;
  });
  await assert.rejects(
    run(model, WANTED, options),
    /early holds the state of an earlier run: go on with it by --resume/,
  );
  const resume = { ...checkpoint, resume: true };
  await assert.rejects(
    run(model, WANTED, { teacher: { ...TEACHER, rank: 2 }, checkpoint: resume }),
    /can't resume from .*: rank was 4 and is now 2/,
  );
  const resumed = await run(model, WANTED, { teacher: TEACHER, checkpoint: resume });
  assert.deepEqual(losses(resumed.steps), losses((shared.whole as Run).steps));
  assert.deepEqual(resumed.set, (shared.whole as Run).set);
});

test('stopped after that, it meets the same teacher again', async () => {
  const checkpoint = { directory: join(folder, 'late'), every: 0, resume: false };
  const controller = new AbortController();
  const first: TrainStep[] = [];
  const stopped = run(model, WANTED, { teacher: TEACHER, checkpoint, signal: controller.signal }, (step) => {
    first.push(step);
    if (step.step === 2) controller.abort();
  });
  await assert.rejects(stopped, TrainingStopped);
  const tunedAgain: number[] = [];
  const resumed = await run(model, WANTED, {
    teacher: TEACHER,
    checkpoint: { ...checkpoint, resume: true },
    onProgress: (stage, done) => {
      if (stage === 'tuning the teacher') tunedAgain.push(done);
    },
  });
  assert.deepEqual(tunedAgain, [], 'nothing is tuned twice');
  assert.deepEqual(losses([...first, ...resumed.steps]), losses((shared.whole as Run).steps));
  removeCheckpoint(checkpoint.directory);
  assert.equal(existsSync(checkpoint.directory), false, 'its state goes with the run’s');
});

test('a teacher that was tuned too fast is refused: worse than it was, or not finite', async () => {
  await assert.rejects(
    run(model, WANTED, { teacher: { ...TEACHER, learningRate: 1 } }),
    /the tuned teacher is worse on held-out text than the model it was tuned from \(perplexity [\d.]+ against [\d.]+\): lower --teacher-lr/,
  );
  await assert.rejects(
    run(model, WANTED, { teacher: { ...TEACHER, learningRate: 1e38 } }),
    /the teacher diverged while it was tuned at a peak rate of 1e\+38; lower --teacher-lr/,
  );
});

test('a base is prepared towards it, and its history says so', async () => {
  const out = join(folder, 'prepared');
  const settings = {
    ...PREPARE_DEFAULTS,
    phases: [{ klWeight: 1, steps: 4 }],
    ...{ batch: 2, seq: 64, warmup: 1, learningRate: 1e-3, evaluateEvery: 0, evaluateWindows: 2 },
  };
  const sources = [{ name: 'cats.txt', documents: DOCUMENTS }];
  const mask = oneShotMask(model, { method: 'magnitude', windows: [], damp: 0.01 });
  let [start, prepared] = [0, Infinity];
  const events = runPrepare(model, { sources, heldOut: [], settings, force: true }, { out, mask, teacher: TEACHER });
  for await (const event of events) {
    if (event.type === 'finished') [start, prepared] = [event.heldOut[0]?.start ?? 0, event.heldOut[0]?.prepared ?? 0];
  }
  assert.ok(prepared < start, `${start} → ${prepared}`);
  const { recipe } = JSON.parse(readFileSync(join(out, 'maskserve.json'), 'utf8')) as { recipe: { teacher: string } };
  assert.equal(recipe.teacher, `tuned, rank 4, 15 steps at 0.005 on ${model.info.base}`);
  const lm = { ...settings, phases: [{ klWeight: 0, steps: 4 }] };
  const idle = runPrepare(model, { sources, heldOut: [], settings: lm, force: true }, { out, mask, teacher: TEACHER });
  await assert.rejects(idle.next(), /expected --loss kl or mix beside a teacher/);
});
