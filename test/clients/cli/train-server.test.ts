/** `maskctl train` against a server: what a person sees, what a machine reads, how it is left, attached to, cancelled. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { TrainJob } from '../../../clients/sdk/index.js';
import { startProcess, type ServerProcess } from '../../server/jobs/process.js';
import { eventWhere } from '../../server/jobs/small-job.js';
import { DOCUMENTS } from '../../server/trainer/runs.js';
import { finished, maskctl, start } from './maskctl.js';
import { labelsOf } from './pictures-decoded.js';

const folder = mkdtempSync(join(tmpdir(), 'maskctl-train-server-'));
const text = join(folder, 'text');
mkdirSync(text);
DOCUMENTS.forEach((document, i) => writeFileSync(join(text, `${i}.txt`), document));

let server: ServerProcess;
before(async () => (server = await startProcess(join(folder, 'store'))));
after(async () => {
  await server.end('SIGKILL');
  rmSync(folder, { recursive: true });
});

const SMALL = [
  ...['--prior', 'magnitude', '--batch', '2', '--seq', '64', '--warmup', '1', '--lr', '5e-3', '--loss', 'lm'],
  ...['--evaluate-windows', '2', '--log-every', '1'],
];
const small = (task: string, steps: number, ...more: string[]): string[] => [
  ...['--server', server.url, 'train', '--task', task, '--data', join(text, '*.txt'), ...SMALL],
  ...['--steps', String(steps), '--evaluate-every', '3', ...more],
];
const about = (...args: string[]): Promise<Awaited<ReturnType<typeof maskctl>>> =>
  maskctl(['--server', server.url, 'train', ...args]);
const jobs = async (): Promise<TrainJob[]> => JSON.parse((await about('--list', '--json')).stdout) as TrainJob[];

test('people get the memory, a line each interval, a table, the digest, and a curl that works', async () => {
  const plot = join(folder, 'cats.svg');
  const more = ['--from', 'general', '--guard', join(text, '1*.txt'), '--plot', plot];
  const { code, stdout, stderr } = await maskctl(small('cats', 6, ...more));
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
  assert.ok(labelsOf(readFileSync(plot, 'utf8')).includes('cats: perplexity on held-out text'));
  const lines = stdout.split('\n');
  assert.match(lines[0] ?? '', /^cats: 6 steps at a peak rate of 0\.00500, [\d,]+ tokens to train on, \d+ held out$/);
  assert.match(lines[1] ?? '', /^memory \(cpu\): 60 MiB for what is learned/);
  assert.match(lines[2] ?? '', /^step 1\/6 {2}loss \d+\.\d+ {2}[\d,]+ tokens\/s {2}\d+ s left$/);
  assert.match(stdout, /^HELD-OUT TEXT +DENSE +PRIOR +THIS MASK$/m);
  assert.match(stdout, /1\*\.txt \(guard\) +\d/);
  const digest = /^digest +([0-9a-f]{64})$/m.exec(stdout)?.[1];
  const [, url, body] = /curl (http\S+\/v1\/completions) .*-H 'X-Task: cats' -d '([^']+)'/.exec(stdout) ?? [];
  const response = await fetch(url ?? '', { method: 'POST', headers: { 'X-Task': 'cats' }, body: body ?? '' });
  assert.equal(response.status, 200);
  assert.equal(response.headers.get('x-mask-digest'), digest);
});

test('with --json every line is an event; the first names the job, the last what was published', async () => {
  const { code, stdout, stderr } = await maskctl(small('cats', 4, '--json'));
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
  const events = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  assert.deepEqual(
    events.map(({ type }) => type),
    ['job', 'started', ...Array<string>(4).fill('step'), 'finished', 'published'],
  );
  const job = (await jobs()).find(({ id }) => id === events[0]?.['id']);
  assert.equal(events.at(-1)?.['digest'], job?.digest);
  assert.equal(job?.state, 'finished');
});

test('Ctrl-C leaves the job to the server; it can be listed, attached to and cancelled', async () => {
  const child = start(small('left', 100_000));
  const ended = finished(child);
  await new Promise<void>((resolve) =>
    child.stdout?.on('data', (chunk: string) => chunk.includes('step 2/') && resolve()),
  );
  child.kill('SIGINT');
  const { code, stderr } = await ended;
  assert.equal(code, 130);
  const [, id = ''] =
    /^the job goes on at http\S+; .*:\n {2}maskctl train --attach (\w+)\n {2}maskctl train --cancel \1\n$/.exec(
      stderr,
    ) ?? [];
  const list = await about('--list');
  assert.match(list.stdout, new RegExp(`^JOB +TASK +FROM +STATE +STEP .*\\n${id} +left +- +running +\\d+/100000 `));
  const watcher = start(['--server', server.url, 'train', '--attach', id, '--json']);
  const watched = finished(watcher);
  await new Promise<void>((resolve) => watcher.stdout?.once('data', () => resolve()));
  const cancelled = await about('--cancel', id);
  assert.deepEqual([cancelled.code, cancelled.stdout], [0, `${id}: cancelled, left is as it was\n`]);
  const { code: watchedCode, stderr: told } = await watched;
  assert.deepEqual([watchedCode, told], [1, 'maskctl: the training of left was cancelled\n']);
  assert.deepEqual((await about('--cancel', id)).stdout, `${id} was over, and is forgotten\n`);
  const gone = await about('--attach', id);
  assert.equal(gone.code, 1);
  assert.match(gone.stderr, /^maskctl: no training job ".*\n$/);
});

test('a server that restarts is waited for, and nothing is shown twice', async () => {
  // a port of its own, which the next server takes again
  const port = await freePort();
  const flags = ['--port', String(port), '--train-checkpoint', '0'];
  let own = await startProcess(join(folder, 'restarted'), ...flags);
  const child = start(['--server', own.url, ...small('cats', 8, '--json').slice(2)]);
  const ended = finished(child);
  const id = await new Promise<string>((resolve) =>
    child.stdout?.once('data', (chunk: string) =>
      resolve((JSON.parse(chunk.split('\n')[0] ?? '') as { id: string }).id),
    ),
  );
  await eventWhere(own.url, id, (event) => event.type === 'step' && event.step >= 2);
  assert.equal(await own.end('SIGTERM'), 0);
  own = await startProcess(join(folder, 'restarted'), ...flags);
  const { code, stdout, stderr } = await ended;
  assert.equal(await own.end('SIGTERM'), 0);
  assert.deepEqual([code, stderr], [0, 'the server went away; its job goes on when it is back, waiting for it\n']);
  const steps = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { type: string; step: number })
    .filter(({ type }) => type === 'step');
  // those that ran while nobody watched are not told of, except the last
  const numbers = steps.map(({ step }) => step);
  assert.deepEqual(
    numbers,
    [...new Set(numbers)].sort((a, b) => a - b),
  );
  assert.deepEqual([numbers[0], numbers[1], numbers.at(-1)], [1, 2, 8]);
});

test('a mask that loses to its prior: the table, one line, exit 1', async () => {
  const { code, stdout, stderr } = await maskctl(small('worse', 2, '--lr', '3', '--clip', '0'));
  assert.equal(code, 1);
  assert.match(stdout, /^HELD-OUT TEXT/m);
  assert.match(
    stderr,
    /^maskctl: the mask loses to its prior on held-out text \(perplexity [\d.]+ against [\d.]+\) and was not published: .*\n$/,
  );
});

test('what can not be trained is refused with one line', async () => {
  const cases: [string[], number, RegExp][] = [
    [small('x', 2, '--from', 'nobody'), 1, /no task "nobody"; "maskctl tasks" lists them/],
    [small('x', 2, '--seq', '100000'), 1, /expected at most \d+ \(the model's context\)/],
    [small('x', 2, '--threads', '2'), 2, /expected --local beside --threads/],
    [small('x', 2, '--checkpoint-every', '2'), 2, /expected --local beside --checkpoint-every/],
    [['train', '--task', 'x'], 2, /required option '--data <glob...>' not specified/],
    [
      ['train', '--task', 'x', '--data', text, '--server', 'http://127.0.0.1:9'],
      1,
      /can't reach http:\/\/127\.0\.0\.1:9/,
    ],
    [['--server', server.url, 'train', '--cancel', 'nope'], 1, /no training job "nope"/],
  ];
  const outcomes = await Promise.all(cases.map(([args]) => maskctl(args)));
  outcomes.forEach(({ code, stdout, stderr }, index) => {
    const [args, expected, message] = cases[index] as [string[], number, RegExp];
    assert.match(stderr, message);
    assert.deepEqual([code, stdout], [expected, ''], args.join(' '));
    assert.equal(stderr.trimEnd().split('\n').length, 1, stderr);
  });
});

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => probe.once('listening', resolve));
  const { port } = probe.address() as AddressInfo;
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

test('the server tunes a teacher on the job’s text; one on this machine’s disk is not sent', async () => {
  const tune = ['--loss', 'kl', '--tune-teacher', '--teacher-rank', '4', '--teacher-steps', '6', '--force'];
  const { code, stdout, stderr } = await maskctl(small('taught', 2, ...tune));
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
  assert.match(stdout, /^teacher: perplexity [\d.]+ on the held-out text/m);
  const refused = await maskctl(small('taught', 2, '--loss', 'kl', '--teacher', folder));
  assert.equal(refused.code, 2);
  assert.match(
    refused.stderr,
    /^maskctl: expected --local beside --teacher: the server takes KL to its own dense model/,
  );
});
