/** Teachers as a person names them: what contradicts itself is said at once, and a tuned one is saved and used again. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { DOCUMENTS } from '../../server/trainer/runs.js';
import { finished, maskctl, start } from './maskctl.js';

const folder = mkdtempSync(join(tmpdir(), 'maskctl-teacher-'));
after(() => rmSync(folder, { recursive: true }));
const file = (name: string): string => join(folder, name);
writeFileSync(file('cats.jsonl'), DOCUMENTS.map((text) => `${JSON.stringify({ text })}\n`).join(''));

const train = (out: string, ...more: string[]): string[] => [
  ...['train', '--task', 'cats', '--data', file('cats.jsonl'), '--local', '--out', file(out), '--threads', '1'],
  ...['--prior', 'magnitude', '--steps', '4', '--batch', '2', '--seq', '64', '--lr', '3e-3', '--loss', 'kl'],
  ...['--evaluate-windows', '2', '--force', ...more],
];
const TUNE = ['--tune-teacher', '--teacher-rank', '4', '--teacher-steps', '15', '--teacher-lr', '5e-3'];

test('a teacher is tuned, reported with its perplexity and memory, saved for PEFT, and teaches the same when it is named', async () => {
  const tuned = await maskctl(train('tuned.mask', ...TUNE, '--save-teacher', file('adapter')));
  assert.deepEqual({ code: tuned.code, stderr: tuned.stderr }, { code: 0, stderr: '' });
  const [, perplexity, mebibytes] =
    /^teacher: perplexity ([\d.]+) on the held-out text, (\d+) MiB/m.exec(tuned.stdout) ?? [];
  assert.ok(Number(perplexity) < 20 && mebibytes === '9', tuned.stdout);
  assert.deepEqual(readdirSync(file('adapter')).sort(), ['adapter_config.json', 'adapter_model.safetensors']);
  assert.equal(existsSync(file('tuned.mask.checkpoint')), false, 'its state goes with the run’s');
  const named = await maskctl(train('named.mask', '--teacher', file('adapter')));
  assert.equal(named.code, 0, named.stderr);
  assert.ok(readFileSync(file('named.mask')).equals(readFileSync(file('tuned.mask'))));
  const again = await maskctl(train('again.mask', ...TUNE, '--save-teacher', file('adapter')));
  assert.notEqual(again.code, 0);
  assert.match(again.stderr, /expected --save-teacher to be a directory without an adapter, but .*adapter has one/);
});

test('Ctrl-C while the teacher is tuned saves it, says how to go on, and the run ends as if it had never stopped', async () => {
  const args = train('stopped.mask', ...TUNE, '--teacher-steps', '60');
  const child = start(args);
  const ended = finished(child);
  const state = join(file('stopped.mask.checkpoint'), 'teacher', 'checkpoint.safetensors');
  while (!existsSync(state) && child.exitCode === null) await sleep(20);
  child.kill('SIGINT');
  const { code, stderr, stdout } = await ended;
  assert.deepEqual({ code, stdout }, { code: 130, stdout: '' });
  const [note, said, command] = stderr.split('\n');
  assert.equal(note, 'stopping after this step; again to stop at once');
  assert.match(
    said ?? '',
    /^maskctl: the teacher's tuning stopped after step \d+ of 60; saved in .*checkpoint; go on with:$/,
  );
  const resumed = await maskctl((command ?? '').trim().split(' ').slice(1));
  assert.deepEqual({ code: resumed.code, stderr: resumed.stderr }, { code: 0, stderr: '' });
  const whole = await maskctl(train('unstopped.mask', ...TUNE, '--teacher-steps', '60'));
  assert.equal(whole.code, 0, whole.stderr);
  assert.ok(readFileSync(file('stopped.mask')).equals(readFileSync(file('unstopped.mask'))));
  assert.equal(existsSync(file('stopped.mask.checkpoint')), false);
});

test('options of teachers that contradict each other are refused before anything is read', async () => {
  const cases: [string[], RegExp][] = [
    [['--teacher', file('adapter'), '--tune-teacher'], /expected either --teacher, .* or --tune-teacher/],
    [['--teacher-rank', '4'], /expected --tune-teacher beside --teacher-rank/],
    [['--save-teacher', file('x')], /expected --tune-teacher beside --save-teacher/],
    [['--teacher-base', folder], /expected --teacher or --tune-teacher beside --teacher-base/],
    [['--teacher', file('nowhere')], /expected a model directory or a PEFT folder at .*nowhere, but there is none/],
    [['--tune-teacher', '--loss', 'lm'], /expected --loss kl or mix beside a teacher/],
  ];
  const refused = await Promise.all(cases.map(([more]) => maskctl(train('refused.mask', ...more))));
  refused.forEach(({ code, stderr }, i) => {
    assert.notEqual(code, 0);
    assert.match(stderr, cases[i]?.[1] as RegExp);
  });
});

test('a base is prepared towards the adapter of a person', async () => {
  const options = ['--loss', 'kl', '--steps', '2', '--batch', '2', '--seq', '64', '--evaluate-windows', '2', '--force'];
  const { code, stdout, stderr } = await maskctl([
    ...['prepare', '--data', file('cats.jsonl'), '--out', file('base'), '--threads', '1', '--mask', 'general'],
    ...['--teacher', file('adapter'), ...options],
  ]);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^teacher: perplexity /m);
  assert.match(readFileSync(join(file('base'), 'maskserve.json'), 'utf8'), /"teacher": "adapter [0-9a-f]{64} on /);
});
