/** Jobs that are posted to a server on the GPU train there, beside what it serves; one that has not the room is refused before it takes any. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { native, type BackendName } from '../../kernels/index.js';
import { loadModel } from '../../server/engine/model.js';
import type { MaskTrainingSettings, TrainStep } from '../../server/trainer/types.js';
import { startServerProcess, type ServerProcess } from '../e2e/server-process.js';
import { ENDLESS, eventWhere, finishedJob, postJob, smallJob, type JobEventJson } from '../server/jobs/small-job.js';
import { losses, request, run } from '../server/trainer/runs.js';
import { noGpu } from './gpu.js';
import { writeSmallModel } from './small-model.js';

const folder = mkdtempSync(join(tmpdir(), 'maskserve-gpu-jobs-'));
const MODEL = join(folder, 'model');
writeSmallModel(MODEL, 1024);
const SMALL = { steps: 3, batch: 1, seq: 16, evaluateEvery: 0, evaluateWindows: 1 } as const;
/** Activations of 67 million tokens: more than any GPU holds. */
const HUGE = { ...SMALL, batch: 65536, seq: 1024 } as const;

let server: ServerProcess | undefined;
const start = (...args: readonly string[]): Promise<ServerProcess> =>
  startServerProcess([
    ...['--model', MODEL, '--store', join(folder, 'store'), '--threads', '1', '--train-threads', '1'],
    ...['--backend', 'cuda', ...args],
  ]);
before(async () => {
  if (noGpu === false) server = await start();
});
after(async () => {
  await server?.end('SIGKILL');
  rmSync(folder, { recursive: true });
});
const url = (): string => server?.url ?? '';

const stepsOf = (events: readonly JobEventJson[]): TrainStep[] => events.filter((event) => event.type === 'step');
const backendOf = (events: readonly JobEventJson[]): string | undefined => {
  return events.find((event) => event.type === 'started')?.backend;
};

/** The same run in this process. */
async function learned(backend: BackendName, settings: MaskTrainingSettings): Promise<readonly TrainStep[]> {
  native.useBackend(backend);
  const model = loadModel(MODEL, { threads: 1 });
  try {
    return (await run(model, request(settings))).steps;
  } finally {
    model.dispose();
    native.useBackend('cpu');
  }
}

async function complete(task: string): Promise<number> {
  const { status } = await fetch(`${url()}/v1/completions`, {
    method: 'POST',
    headers: { 'X-Task': task },
    body: JSON.stringify({ prompt: 'The cat', max_tokens: 2, temperature: 0, ignore_eos: true }),
  });
  return status;
}

/** Bytes in buffers, of the host and of the GPU. */
async function nativeBytes(): Promise<number> {
  const text = await (await fetch(`${url()}/metrics`)).text();
  return Number(/^maskserve_native_bytes (\d+)/m.exec(text)?.[1]);
}

test(
  'a job that the GPU has no room for fails with the figures and the ways out, and takes none',
  { skip: noGpu },
  async () => {
    const before = await nativeBytes();
    const { job, events } = await finishedJob(url(), (await postJob(url(), smallJob('cats', HUGE))).id);
    assert.deepEqual([job.state, job.error?.code, backendOf(events)], ['failed', 'training_failed', undefined]);
    const line =
      /^expected (\d+) MiB of GPU memory for this run \(\d+ MiB of weights, \d+ MiB for what is learned, \d+ MiB of activations\), but (\d+) MiB are free for it on .*; post it with a smaller batch or seq, or start the server with a lower --cache-bytes or with --train-backend cpu, or train with "maskctl train --local --backend cpu"$/;
    const [, needed, free] = line.exec(job.error?.message ?? '') ?? assert.fail(job.error?.message);
    assert.ok(Number(needed) > Number(free) && Number(free) > 0);
    assert.equal(await nativeBytes(), before);
    assert.equal(await complete('dense'), 200);
  },
);

test(
  'a job trains on the GPU, bit for bit as a run there does, and its task answers at once',
  { skip: noGpu },
  async () => {
    const posted = await postJob(url(), smallJob('cats', SMALL, { force: true }));
    const { job, events } = await finishedJob(url(), posted.id);
    assert.deepEqual([job.state, backendOf(events)], ['finished', 'cuda'], job.error?.message);
    assert.equal(await complete('cats'), 200);
    const [there, here] = [await learned('cuda', posted.settings), await learned('cpu', posted.settings)];
    assert.equal(stepsOf(events).at(-1)?.step, SMALL.steps);
    for (const step of stepsOf(events)) {
      const same = (run: readonly TrainStep[]): unknown => losses(run)[step.step - 1];
      assert.deepEqual(losses([step])[0], same(there));
      assert.notDeepEqual(losses([step])[0], same(here), 'the CPU sums in another order');
    }
  },
);

test('a job that began on the GPU goes on where the next server trains', { skip: noGpu }, async () => {
  const { id } = await postJob(url(), smallJob('cats', { ...SMALL, ...ENDLESS }));
  await eventWhere(url(), id, (event) => event.type === 'step' && event.step >= 2);
  assert.equal((await server?.end('SIGTERM'))?.code, 0);
  server = await start('--train-backend', 'cpu');
  const started = await eventWhere(url(), id, (event) => event.type === 'started' && event.backend === 'cpu');
  assert.ok(started.type === 'started' && started.resumedFrom >= 2);
  await eventWhere(url(), id, (event) => event.type === 'step' && event.step > started.resumedFrom + 1);
});
