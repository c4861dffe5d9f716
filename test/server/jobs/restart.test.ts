/** Jobs through the end of their server: asked to stop, killed, killed right after it acknowledged. */
import assert from 'node:assert/strict';
import { readdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { TrainStep } from '../../../server/trainer/types.js';
import { losses } from '../trainer/runs.js';
import { startProcess, type ServerProcess } from './process.js';
import { eventsOfJob, eventWhere, finishedJob, getJob, postJob, smallJob, type JobEventJson } from './small-job.js';

const folder = mkdtempSync(join(tmpdir(), 'maskserve-jobs-'));
const processes = new Set<ServerProcess>();
after(async () => {
  for (const running of processes) await running.end('SIGKILL');
  rmSync(folder, { recursive: true });
});

async function start(store: string, ...flags: string[]): Promise<ServerProcess> {
  const running = await startProcess(join(folder, store), ...flags);
  processes.add(running);
  return running;
}

/** Watches a job until a step, and gives the steps that it saw. */
async function stepsUntil(url: string, id: string, last: number): Promise<TrainStep[]> {
  const steps: TrainStep[] = [];
  for await (const event of eventsOfJob(url, id)) {
    if (event.type !== 'step') continue;
    steps.push(event);
    if (event.step >= last) break;
  }
  return steps;
}

const stepsOf = (events: readonly JobEventJson[]): TrainStep[] => events.filter((event) => event.type === 'step');
const jobFolder = (store: string): string => {
  const base = readdirSync(join(folder, store)).find((name) => /^[0-9a-f]{64}$/.test(name)) ?? '';
  return join(folder, store, base, 'jobs');
};

test('stopped, then killed, a job goes on each time and ends with the mask of one that nobody disturbed', async () => {
  const body = smallJob('cats', { steps: 10, evaluateEvery: 5 });
  let server = await start('disturbed', '--train-checkpoint', '0');
  const { id } = await postJob(server.url, body);
  const waiting = await postJob(server.url, { ...body, task: 'calm' });
  const seen: TrainStep[] = await stepsUntil(server.url, id, 2);
  assert.equal(await server.end('SIGTERM'), 0);

  server = await start('disturbed', '--train-checkpoint', '0');
  const first = await eventWhere(server.url, id, (event) => event.type === 'started' && event.resumedFrom > 0);
  assert.ok(first.type === 'started' && first.resumedFrom >= 2);
  const waits = await getJob(server.url, waiting.id);
  assert.deepEqual([waits.state, waits.position], ['queued', 1]);
  seen.push(...(await stepsUntil(server.url, id, first.resumedFrom + 3)));
  await server.end('SIGKILL');

  server = await start('disturbed', '--train-checkpoint', '0');
  await eventWhere(server.url, id, (event) => event.type === 'started' && event.resumedFrom >= first.resumedFrom + 2);
  const { events, job } = await finishedJob(server.url, id);
  seen.push(...stepsOf(events));
  const calm = await finishedJob(server.url, waiting.id);
  assert.deepEqual([job.state, calm.job.state], ['finished', 'finished']);
  assert.equal(job.digest, calm.job.digest);
  const undisturbed = new Map(losses(stepsOf(calm.events)).map((loss, i) => [i + 1, loss]));
  for (const step of seen) assert.deepEqual(losses([step])[0], undisturbed.get(step.step), `step ${step.step}`);
  assert.deepEqual(job.finished?.heldOut, calm.job.finished?.heldOut);
  assert.deepEqual(readdirSync(join(jobFolder('disturbed'), id)), ['state.json'], 'what it needed is gone');
  const completion = await fetch(`${server.url}/v1/completions`, {
    method: 'POST',
    headers: { 'X-Task': 'cats' },
    body: JSON.stringify({ prompt: 'The cat', max_tokens: 1 }),
  });
  assert.equal(completion.headers.get('x-mask-digest'), job.digest);
  assert.equal(await server.end('SIGTERM'), 0);

  server = await start('disturbed');
  assert.deepEqual(await getJob(server.url, id), job, 'its result is remembered');
  assert.equal(await server.end('SIGTERM'), 0);
});

test('what was acknowledged is there after a kill, with the start that it named; what was not leaves nothing', async () => {
  let server = await start('killed');
  const general = await (await fetch(`${server.url}/v1/masks/general`)).arrayBuffer();
  const body = smallJob('cats', { steps: 2, learningRate: 1e-6 }, { from: 'mine', force: true });
  await fetch(`${server.url}/v1/masks/mine`, { method: 'PUT', body: new Uint8Array(general) });
  const job = await postJob(server.url, body);
  await server.end('SIGKILL');

  server = await start('killed');
  assert.equal((await fetch(`${server.url}/v1/masks/mine`, { method: 'DELETE' })).status, 204);
  const { job: over } = await finishedJob(server.url, job.id);
  assert.equal(over.state, 'finished', over.error?.message);
  assert.equal(over.finished?.changed, 0);
  assert.equal(await server.end('SIGTERM'), 0);
  assert.deepEqual(readdirSync(join(jobFolder('killed'), 'tmp')), []);
});
