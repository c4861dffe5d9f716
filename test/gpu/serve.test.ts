/** The whole server with --backend cuda beside one with --backend cpu: the same prompt, through the same tasks, is as likely to both. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { startServerProcess, type ServerProcess } from '../e2e/server-process.js';
import { native } from '../../kernels/index.js';
import { loadModel } from '../../server/engine/model.js';
import { TINY } from '../tiny.js';
import { noGpu, runningOn } from './gpu.js';

/** Nats: activations are rounded to bf16 on both. */
const NEAR = 0.05;
/** The second and the third are children of the first, one of them in memory as patches of it. */
const TASKS = ['dense', 'general', 'french', 'python'];

interface Scored {
  readonly choices: readonly [
    { readonly text: string; readonly logprobs: { readonly token_logprobs: (number | null)[] } },
  ];
  readonly usage: { readonly completion_tokens: number };
}

function complete(url: string, task: string): Promise<Response> {
  const body = { prompt: 'La mémoire', max_tokens: 2, temperature: 0, echo: true, logprobs: 1, ignore_eos: true };
  return fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', 'X-Task': task },
    body: JSON.stringify(body),
  });
}

async function scored(url: string, task: string): Promise<Scored> {
  const answer = await complete(url, task);
  assert.equal(answer.status, 200, `${task}: ${await answer.clone().text()}`);
  return (await answer.json()) as Scored;
}

const folder = mkdtempSync(join(tmpdir(), 'maskserve-gpu-'));
const servers: ServerProcess[] = [];
after(async () => {
  for (const server of servers) await server.end('SIGKILL');
  rmSync(folder, { recursive: true });
});

async function started(name: string, args: readonly string[]): Promise<string> {
  const server = await startServerProcess(['--store', join(folder, name), ...args]);
  servers.push(server);
  return server.url;
}

/** Log-probabilities of the prompt's tokens but the first; what follows may differ at a tie. */
async function likelihoods(url: string, task: string): Promise<readonly number[]> {
  const { choices, usage } = await scored(url, task);
  assert.equal(usage.completion_tokens, 2);
  const of = choices[0].logprobs.token_logprobs.slice(1, -2) as number[];
  assert.ok(of.length > 2, choices[0].text);
  return of;
}

function assertNear(actual: readonly number[], expected: readonly number[], task: string): void {
  assert.equal(actual.length, expected.length);
  expected.forEach((logprob, i) =>
    assert.ok(Math.abs(logprob - actual[i]!) < NEAR, `${task}: ${logprob} ${actual[i]}`),
  );
}

test(
  'tasks answer together from the GPU as they do from the CPU, each through its own mask',
  { skip: noGpu },
  async () => {
    const cpu = await started('cpu', ['--backend', 'cpu']);
    const expected = await Promise.all(TASKS.map((task) => likelihoods(cpu, task)));
    const gpu = await started('cuda', ['--backend', 'cuda']);
    const actual = await Promise.all(TASKS.map((task) => likelihoods(gpu, task)));
    TASKS.forEach((task, i) => assertNear(actual[i]!, expected[i]!, task));
    assert.equal(new Set(expected.map((of) => of.join())).size, TASKS.length, 'every task has its own mask');

    const args = ['--backend', 'cuda', '--dense-weights', 'host'];
    const small = await started('host', [...args, '--default-task', 'general']);
    const again = await Promise.all(TASKS.slice(1).map((task) => likelihoods(small, task)));
    again.forEach((of, i) => assert.deepEqual(of, actual[i + 1], 'the same bits, from weights that visit the GPU'));
    const refused = await complete(small, 'dense');
    assert.equal(refused.status, 400);
    assert.match(await refused.text(), /masks every linear layer: .*--dense-weights host/);
    await assert.rejects(started('none', args), /expected --default-task to name a task beside --dense-weights host/);
  },
);

test('with --dense-weights host a GPU holds neither the linear layers nor a copy of them', { skip: noGpu }, () => {
  const used = (denseOnHost: boolean): { readonly bytes: number; readonly linear: number } =>
    runningOn('cuda', () => {
      const before = native.memory().freeBytes;
      const model = loadModel(TINY, { denseOnHost });
      const bytes = before - native.memory().freeBytes;
      const linear = model.info.maskable.reduce((sum, { rows, cols }) => sum + 2 * rows * cols, 0);
      model.dispose();
      return { bytes, linear };
    });
  // The first also takes what a thread keeps.
  used(false);
  const { bytes, linear } = used(false);
  assert.ok(bytes - used(true).bytes >= linear, `${linear} bytes of linear layers`);
});
