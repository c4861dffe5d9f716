/** `maskctl prepare` and `maskctl sensitivity` as a person runs them. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { DOCUMENTS } from '../../server/trainer/runs.js';
import { finished, maskctl, start } from './maskctl.js';

const folder = mkdtempSync(join(tmpdir(), 'maskctl-prepare-'));
after(() => rmSync(folder, { recursive: true }));
const TEXT = join(folder, 'cats.jsonl');
writeFileSync(TEXT, DOCUMENTS.map((text) => `${JSON.stringify({ text })}\n`).join(''));

const small = (out: string, ...more: string[]): string[] => [
  ...['prepare', '--data', TEXT, '--out', join(folder, out), '--threads', '1', '--mask', 'general'],
  ...[
    '--batch',
    '2',
    '--seq',
    '64',
    '--warmup',
    '1',
    '--lr',
    '1e-3',
    '--evaluate-windows',
    '2',
    '--log-every',
    '1',
    ...more,
  ],
];

test('a prepared base serves its general mask, and can be trained from', async () => {
  const { code, stdout, stderr } = await maskctl(small('base', '--loss', 'kl:1,lm:3', '--hold-out', TEXT));
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
  assert.match(stdout, /^general: 4 steps at a peak rate of 0\.00100, /);
  assert.match(stdout, /^HELD-OUT TEXT +ORIGINAL +START +PREPARED +WITHOUT MASK$/m);
  assert.match(stdout, /cats\.jsonl \(not trained on\) +\d/);
  assert.match(stdout, /^base +[0-9a-f]{64}$/m);
  const base = join(folder, 'base');
  const evaluated = await maskctl([
    'eval',
    '--model',
    base,
    '--task',
    'general,dense',
    '--data',
    TEXT,
    '--windows',
    '2',
    '--json',
  ]);
  const [general, dense] = JSON.parse(evaluated.stdout) as { ppl: number }[];
  assert.ok(general && dense && general.ppl !== dense.ppl);
  const child = join(folder, 'child.mask');
  const trained = await maskctl([
    ...['train', '--model', base, '--task', 'cats', '--from', 'general', '--data', TEXT, '--local', '--out', child],
    ...['--steps', '1', '--batch', '1', '--seq', '64', '--evaluate-windows', '2', '--threads', '1'],
  ]);
  assert.equal(trained.code, 0, trained.stderr);
  assert.equal(existsSync(child), true);
});

test('stopped by SIGTERM it leaves no directory, says how to go on, and goes on', async () => {
  const child = start(small('stopped', '--loss', 'lm', '--steps', '4', '--json', '--force'));
  const ended = finished(child);
  child.stdout?.on('data', (text: string) => {
    if (text.includes('"step":1,')) child.kill('SIGTERM');
  });
  const { code, stderr } = await ended;
  assert.equal(code, 143);
  assert.equal(existsSync(join(folder, 'stopped')), false);
  const command = stderr.trimEnd().split('\n').at(-1) as string;
  const [, ...args] = command.trim().split(' ');
  const resumed = await maskctl(args);
  assert.equal(resumed.code, 0, resumed.stderr);
  const last = JSON.parse(resumed.stdout.trimEnd().split('\n').at(-1) as string) as Record<string, unknown>;
  assert.deepEqual([last['type'], last['directory']], ['written', join(folder, 'stopped')]);
  assert.deepEqual(
    readdirSync(folder).filter((name) => name.includes('checkpoint') || name.includes('.part')),
    [],
  );
});

test('sensitivity scores nothing masked, each layer alone, and all', async () => {
  const args = ['sensitivity', '--data', TEXT, TEXT, '--windows', '1', '--threads', '1'];
  const { code, stdout } = await maskctl([...args, '--json']);
  assert.equal(code, 0);
  const scores = JSON.parse(stdout) as { layer: string; ppl: number; texts: number[] }[];
  assert.deepEqual(
    scores.map(({ layer }) => layer),
    ['none', ...[0, 1, 2, 3, 4, 5].map((layer) => `model.layers.${layer}`), 'all'],
  );
  assert.equal(new Set(scores.map(({ ppl }) => ppl)).size, 8, 'each differs');
  assert.ok(scores.every(({ ppl, texts }) => texts.length === 2 && texts[0] === texts[1] && texts[0] === ppl));
  const table = (await maskctl(args)).stdout.split('\n');
  assert.match(table[0] as string, /^MASKED +PPL +AGAINST DENSE$/);
  assert.match(table[1] as string, /^nothing \(dense\) +\d+\.\d\d$/);
  assert.match(table[2] as string, /^model\.layers\.0 +\d+\.\d\d +[+−][\d.]+%$/);
});

test('what can not be run is refused with one line that says what to do', async () => {
  const occupied = join(folder, 'occupied');
  mkdirSync(occupied);
  writeFileSync(join(occupied, 'something'), '');
  const cases: [string[], number, RegExp][] = [
    [small('occupied'), 2, /expected --out to be a directory that is not there yet, or empty, but received .*occupied/],
    [small(join('no', 'where')), 2, /expected a directory at .*no to make where in/],
    [small('x', '--loss', 'ce:5'), 2, /expected --loss to be like kl:100,lm:60 .*, but received ce:5/],
    [small('x', '--loss', 'kl:5', '--steps', '6'), 2, /6 steps together, as --steps says, but they have 5/],
    [small('x', '--keep-dense', 'first:9'), 1, /expected --keep-dense to be like last:1/],
    [small('x', '--mask', 'nobody'), 1, /expected a mask file, or a task that comes with/],
    [small('x', '--resume', join(folder, 'nothing')), 1, /expected a checkpoint in .*nothing, but there is none/],
    [['prepare', '--out', join(folder, 'x')], 2, /required option '--data <glob\.\.\.>' not specified/],
    [['sensitivity', '--data', TEXT, '--task', 'dense'], 1, /expected --task or --mask to name a mask/],
    [['sensitivity', '--data', TEXT, '--task', 'nobody'], 1, /no task "nobody" comes with/],
  ];
  const outcomes = await Promise.all(cases.map(([args]) => maskctl(args)));
  outcomes.forEach(({ code, stderr }, index) => {
    const [args, expectedCode, message] = cases[index] as [string[], number, RegExp];
    assert.match(stderr, message, args.join(' '));
    assert.equal(code, expectedCode, args.join(' '));
    assert.equal(stderr.trimEnd().split('\n').length, 1, stderr);
  });
});
