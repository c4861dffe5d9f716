/** `maskctl train` as a person runs it: what it prints, how it is stopped, killed and taken up again, what it refuses. */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { contentDigest } from '../../../codec/content-digest.js';
import { decodeMaskSet } from '../../../codec/decode.js';
import type { TrainEvent, TrainFinished, TrainStarted, TrainStep } from '../../../server/trainer/types.js';
import { DOCUMENTS, losses } from '../../server/trainer/runs.js';
import { readMaskSet } from '../../../clients/cli/mask-file.js';
import { shippedSet } from '../../shipped-masks.js';
import { finished, maskctl, start, type Finished } from './maskctl.js';

const folder = mkdtempSync(join(tmpdir(), 'maskctl-train-'));
after(() => rmSync(folder, { recursive: true }));
const TEXT = join(folder, 'cats.jsonl');
writeFileSync(TEXT, DOCUMENTS.map((text) => `${JSON.stringify({ text })}\n`).join(''));

const file = (name: string): string => join(folder, name);
/** Six small steps. */
const small = (out: string, ...more: string[]): string[] => [
  ...[
    'train',
    '--task',
    'cats',
    '--data',
    TEXT,
    '--local',
    '--out',
    file(out),
    '--threads',
    '1',
    '--prior',
    'magnitude',
  ],
  ...['--steps', '6', '--batch', '2', '--seq', '64', '--warmup', '1', '--lr', '5e-3', '--loss', 'lm'],
  ...['--evaluate-windows', '2', '--evaluate-every', '3', '--log-every', '1', ...more],
];

const eventsOf = (stdout: string): TrainEvent[] =>
  stdout
    .split('\n')
    .filter((line) => line.endsWith('}'))
    .map((line) => JSON.parse(line) as TrainEvent);
const stepsOf = (stdout: string): TrainStep[] => eventsOf(stdout).filter((event) => event.type === 'step');

/** Resolves once stdout has `text`. */
async function waitFor(child: ChildProcess, text: string): Promise<void> {
  let seen = '';
  await new Promise<void>((resolve, reject) => {
    child.stdout?.on('data', (chunk: string) => {
      seen += chunk;
      if (seen.includes(text)) resolve();
    });
    child.once('close', () => reject(new Error(`ended before ${text}: ${seen}`)));
  });
}

const shared: { whole?: Finished } = {};

test('in a pipe with --json every line is an event, and the last names the file', async () => {
  const whole = await maskctl(small('whole.mask', '--json'));
  shared.whole = whole;
  assert.deepEqual({ code: whole.code, stderr: whole.stderr }, { code: 0, stderr: '' });
  const events = eventsOf(whole.stdout);
  assert.deepEqual(
    events.map(({ type }) => type as string),
    ['started', ...Array<string>(6).fill('step'), 'finished', 'written'],
  );
  const started = events[0] as TrainStarted;
  assert.ok(started.memory.learnerBytes > 0 && started.trainTokens > 0);
  const looks = stepsOf(whole.stdout).filter(({ heldOutPerplexity }) => heldOutPerplexity !== undefined);
  assert.deepEqual(
    looks.map(({ step }) => step),
    [3, 6],
  );
  const written = events.at(-1) as unknown as { file: string; contentDigest: string; parent: null };
  assert.equal(written.file, file('whole.mask'));
  assert.equal(written.parent, null);
  assert.equal(written.contentDigest, contentDigest(readMaskSet(written.file)));
  assert.equal(existsSync(file('whole.mask.checkpoint')), false, 'nothing to resume is left');
});

test('people get the memory before the start, a line each interval, a table and the commands to try it', async () => {
  const { code, stdout } = await maskctl(small('people.mask', '--force', '--guard', TEXT));
  assert.equal(code, 0);
  const lines = stdout.split('\n');
  assert.match(
    lines[0] as string,
    /^cats: 6 steps at a peak rate of 0\.00500, [\d,]+ tokens to train on, 256 held out$/,
  );
  assert.match(
    lines[1] as string,
    /^memory \(cpu\): 60 MiB for what is learned \(14\.1 bytes a weight\), \d+ MiB of activations$/,
  );
  assert.match(lines[2] as string, /^step 1\/6 {2}loss \d+\.\d+ {2}[\d,]+ tokens\/s {2}\d+ s left$/);
  assert.match(
    lines[4] as string,
    /held-out \d+\.\d\d \(from \d+\.\d\d, [+−][\d.]+%\) {2}\d+\.\d\d% changed, \d\.\d{4} bit\/param/,
  );
  assert.match(stdout, /^HELD-OUT TEXT +DENSE +PRIOR +THIS MASK$/m);
  assert.match(stdout, /cats\.jsonl +\d+\.\d\d +\d+\.\d\d +\d+\.\d\d +[+−][\d.]+%$/m);
  assert.match(stdout, /cats\.jsonl \(guard\) /);
  assert.match(
    stdout,
    /^\d+\.\d\d% of the groups changed, \d\.\d{4} bit per parameter given the prior \(mask of step [36]\)$/m,
  );
  assert.match(
    stdout,
    /try it:\n {2}maskctl push cats .*people\.mask\n {2}curl http:\/\/127\.0\.0\.1:8080\/v1\/completions .*X-Task: cats/,
  );
});

test('killed by SIGKILL and resumed, it computes what an unstopped run does: the same losses, the same file', async () => {
  const args = small('killed.mask', '--json', '--checkpoint-every', '1');
  const child = start(args);
  const ended = finished(child);
  await waitFor(child, '"step":4,');
  child.kill('SIGKILL');
  const { stdout: before, signal } = await ended;
  assert.equal(signal, 'SIGKILL');
  assert.equal(existsSync(file('killed.mask')), false);
  const refused = await maskctl(args);
  assert.equal(refused.code, 1);
  assert.match(
    refused.stderr,
    /^maskctl: .*killed\.mask\.checkpoint holds the state of an earlier run: go on with it by --resume [^\n]*\n$/,
  );
  const resumed = await maskctl([...args, '--resume', file('killed.mask.checkpoint')]);
  assert.deepEqual({ code: resumed.code, stderr: resumed.stderr }, { code: 0, stderr: '' });
  const from = (eventsOf(resumed.stdout)[0] as TrainStarted).resumedFrom;
  assert.ok(from >= 3, String(from));
  const steps = [...stepsOf(before).filter(({ step }) => step <= from), ...stepsOf(resumed.stdout)];
  assert.deepEqual(losses(steps), losses(stepsOf(shared.whole?.stdout ?? '')));
  assert.ok(readFileSync(file('killed.mask')).equals(readFileSync(file('whole.mask'))));
  assert.equal(existsSync(file('killed.mask.checkpoint')), false);
});

test('Ctrl-C saves the run and says how to go on; a shell sees 130', async () => {
  const child = start(small('stopped.mask', '--json'));
  const ended = finished(child);
  await waitFor(child, '"step":2,');
  child.kill('SIGINT');
  const { code, stderr, stdout } = await ended;
  assert.equal(code, 130);
  const [note, said, command, ...rest] = stderr.split('\n');
  assert.equal(note, 'stopping after this step; again to stop at once');
  assert.match(
    said ?? '',
    /^maskctl: training stopped after step \d of 6; saved in .*stopped\.mask\.checkpoint; go on with:$/,
  );
  assert.match(command ?? '', /^ {2}maskctl train --task cats .* --json --resume .*stopped\.mask\.checkpoint$/);
  assert.deepEqual(rest, ['']);
  const [, ...args] = (command ?? '').trim().split(' ');
  const resumed = await maskctl(args);
  assert.equal(resumed.code, 0, resumed.stderr);
  assert.deepEqual(
    losses([...stepsOf(stdout), ...stepsOf(resumed.stdout)]),
    losses(stepsOf(shared.whole?.stdout ?? '')),
  );
  assert.ok(readFileSync(file('stopped.mask')).equals(readFileSync(file('whole.mask'))));
});

test('a transfer starts from the mask that comes with the model, and is its child', async () => {
  const { code, stdout, stderr } = await maskctl(
    small('child.mask', '--json', '--from', 'general', '--steps', '1', '--lr', '1e-6'),
  );
  assert.equal(code, 0, stderr);
  const general = shippedSet('general');
  const child = readMaskSet(file('child.mask'));
  assert.equal(child.parent, contentDigest(general));
  assert.deepEqual(child.masks, general.masks);
  assert.equal((eventsOf(stdout).at(-2) as TrainFinished).changed, 0);
  const written = eventsOf(stdout).at(-1) as unknown as { needs: { parent: string }; bytes: number };
  assert.equal(written.needs.parent, contentDigest(general));
  assert.ok(written.bytes < 1000, 'nothing changed');
});

test('people are told what a child needs; --flat needs nothing', async () => {
  const child = ['--from', 'general', '--steps', '1', '--lr', '1e-6', '--force'];
  const patch = await maskctl(small('people-child.mask', ...child));
  assert.match(patch.stdout, /^needs +its parent general [0-9a-f]{12}/m);
  const flat = await maskctl(small('flat.mask', ...child, '--flat'));
  assert.match(flat.stdout, /^needs +nothing else$/m);
  assert.deepEqual(decodeMaskSet(readFileSync(file('flat.mask'))), readMaskSet(file('people-child.mask')));
});

test('a 1:4 mask is written and scored here, and no server is asked to serve it', async () => {
  const out = file('quarter.mask');
  const { code, stdout, stderr } = await maskctl(small('quarter.mask', '--pattern', '1:4', '--steps', '1', '--force'));
  assert.equal(code, 0, stderr);
  assert.match(
    stdout,
    /servers serve 2:4 alone; score this 1:4 mask by:\n {2}maskctl eval --local --mask .*quarter\.mask/,
  );
  const score = async (...mask: string[]): Promise<number> => {
    const args = ['eval', '--local', ...mask, '--data', TEXT, '--windows', '2', '--json', '--threads', '1'];
    return (JSON.parse((await maskctl(args)).stdout) as { ppl: number }).ppl;
  };
  assert.ok((await score('--mask', out)) > 2 * (await score('--task', 'general')));
});

test('a mask that loses to its prior is not written; --resume --force writes it without learning anew', async () => {
  const ruin = small('worse.mask', '--json', '--lr', '3', '--steps', '2');
  const refused = await maskctl(ruin);
  assert.equal(refused.code, 1);
  assert.match(
    refused.stderr,
    /^maskctl: the mask loses to its prior on held-out text \(perplexity [\d.]+ against [\d.]+\) and was not written: .*: maskctl train .* --resume .* --force\n$/,
  );
  assert.equal(existsSync(file('worse.mask')), false);
  const forced = await maskctl([...ruin, '--resume', file('worse.mask.checkpoint'), '--force']);
  assert.equal(forced.code, 0, forced.stderr);
  assert.equal(stepsOf(forced.stdout).length, 0);
  assert.equal(existsSync(file('worse.mask')), true);
});

test('every constant has its default in --help, and cites the paper', async () => {
  const { stdout } = await maskctl(['train', '--help']);
  const help = stdout.replace(/\s+/g, ' ');
  for (const line of [
    '--scale <first:last> gumbel: κ of softmax((κ·π + g)/τ), linear (Eq. 6, 7; Table 9) (default: 100:500)',
    '--temperature <first:last> gumbel: τ of the same, linear (Eq. 6, 7; Table 8) (default: 4:0.05)',
    '--regularisation <l> gumbel: λ of loss − λ·Σ‖W⊙M̃‖², falls linearly to 0 (Eq. 8) (default: 0.00001)',
    "--prior-strength <a> gumbel: α, how far the prior's pattern starts ahead, in σ (Eq. 10) (default: 3)",
    '--weight-decay <w> AdamW: decay of the logits (Table 7) (default: ste 0, gumbel 0.1)',
    '--margin <m> ste: scores start at ± this around the prior (default: 0.015)',
  ]) {
    assert.ok(help.includes(line), line);
  }
});

test('what can not be run is refused with one line that says what to do', async () => {
  const binary = join(folder, 'binary');
  mkdirSync(binary);
  writeFileSync(join(binary, 'a.bin'), Buffer.from([0, 1, 2]));
  const local = ['train', '--task', 'x', '--data', TEXT, '--local', '--out', file('never.mask')];
  const cases: [string[], number, RegExp][] = [
    [['train', '--task', 'x', '--data', TEXT, '--out', file('never.mask')], 2, /expected --local beside --out/],
    [['train', '--task', 'x', '--data', TEXT, '--local'], 2, /expected --out FILE beside --local/],
    [
      ['train', '--data', TEXT, '--local', '--out', file('never.mask')],
      2,
      /required option '--task <name>' not specified/,
    ],
    [['train', '--task', 'dense', '--data', TEXT], 1, /"dense" is reserved/],
    [[...local, '--out', join(folder, 'no', 'x.mask')], 2, /expected a directory at .*no to write/],
    [[...local, '--method', 'best'], 2, /'best' is invalid\. Allowed choices are ste, gumbel/],
    [[...local, '--scale', '1:2:3'], 2, /Expected two positive numbers such as 100:500/],
    [[...local, '--steps', '0'], 2, /Expected an integer of at least 1/],
    [[...local, '--from', 'nobody'], 1, /expected a mask file, or a task that comes with .*, but received nobody/],
    [[...local, '--from', TEXT], 1, /cats\.jsonl: expected .*/],
    [[...local, '--data', join(folder, '*.nothing')], 1, /nothing matches; check --data/],
    [[...local, '--data', binary], 1, /expected text in .*binary, but its 1 file\(s\) are empty, binary or not UTF-8/],
    [['train', '--task', 'x', '--data', TEXT, '--pattern', '4:8'], 2, /expected --local beside --pattern 4:8: servers/],
    [[...local, '--pattern', '4:8', '--from', 'general'], 1, /expected a 4:8 mask to start from, but it is 2:4/],
    [[...local, '--pattern', '3:4'], 2, /'3:4' is invalid\. Allowed choices are 2:4, 1:4, 4:8/],
    [[...local, '--prior', 'none'], 1, /expected --method gumbel beside --prior none/],
    [[...local, '--keep-dense', 'last:9'], 1, /expected --keep-dense to be like last:1/],
    [[...local, '--model', folder], 1, /config\.json/],
  ];
  const outcomes = await Promise.all(cases.map(([args]) => maskctl(args)));
  outcomes.forEach(({ code, stdout, stderr }, index) => {
    const [args, expectedCode, message] = cases[index] as [string[], number, RegExp];
    const which = args.join(' ');
    assert.match(stderr, message, which);
    assert.equal(code, expectedCode, which);
    assert.equal(stdout, '', which);
    assert.equal(stderr.trimEnd().split('\n').length, 1, stderr);
  });
  assert.ok(!readdirSync(folder).some((name) => name.startsWith('never')));
});
