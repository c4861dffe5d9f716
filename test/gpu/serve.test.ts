/** The whole server with --backend cuda beside one with --backend cpu: the same prompts, through the same tasks, are as likely to both. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { startServerProcess, type ServerProcess } from '../e2e/server-process.js';
import { noGpu } from './gpu.js';

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

async function scored(url: string, task: string): Promise<Scored> {
  const body = { prompt: 'La mémoire', max_tokens: 2, temperature: 0, echo: true, logprobs: 1, ignore_eos: true };
  const answer = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', 'X-Task': task },
    body: JSON.stringify(body),
  });
  assert.equal(answer.status, 200, `${task}: ${await answer.clone().text()}`);
  return (await answer.json()) as Scored;
}

test(
  'tasks answer together from the GPU as they do from the CPU, each through its own mask',
  { skip: noGpu },
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'maskserve-gpu-'));
    const servers: ServerProcess[] = [];
    after(async () => {
      for (const server of servers) await server.end('SIGKILL');
      rmSync(folder, { recursive: true });
    });
    const answers = async (backend: string): Promise<Scored[]> => {
      const server = await startServerProcess(['--backend', backend, '--store', join(folder, backend)]);
      servers.push(server);
      return Promise.all(TASKS.map((task) => scored(server.url, task)));
    };
    const expected = await answers('cpu');
    const actual = await answers('cuda');
    actual.forEach(({ choices: [choice], usage }, i) => {
      assert.equal(usage.completion_tokens, 2);
      // What follows the prompt may differ at a tie.
      const of = (one: Scored): number[] => one.choices[0].logprobs.token_logprobs.slice(1, -2) as number[];
      const [wanted, got] = [of(expected[i]!), of(actual[i]!)];
      assert.ok(wanted.length > 2 && got.length === wanted.length, choice.text);
      wanted.forEach((logprob, at) =>
        assert.ok(Math.abs(logprob - got[at]!) < NEAR, `${TASKS[i]}: ${logprob} ${got[at]}`),
      );
    });
    const likelihoods = expected.map(({ choices: [{ logprobs }] }) => logprobs.token_logprobs.slice(1, -2).join());
    assert.equal(new Set(likelihoods).size, TASKS.length, 'every task has its own mask');
  },
);
