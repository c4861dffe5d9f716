import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { encodeMaskSet } from '../../../codec/encode.js';
import { readMaskSet } from '../../../clients/cli/mask-file.js';
import { TINY } from '../../tiny.js';
import { finished, maskctl, start, type Finished } from './maskctl.js';

const TEXT = fileURLToPath(new URL('../../../../node_modules/commander/Readme.md', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'maskctl-local-'));
after(() => rmSync(folder, { recursive: true }));

interface Evaluated {
  readonly task: string;
  readonly data?: string;
  readonly tokens: number;
  readonly nll: number;
  readonly ppl: number;
}

const prune = (out: string, ...args: string[]): Promise<Finished> =>
  maskctl(['prune', '--out', join(folder, out), '--threads', '1', ...args]);
const evaluate = (...args: string[]): Promise<Finished> =>
  maskctl(['eval', '--local', '--threads', '1', '--windows', '4', ...args]);
const evaluated = async (...args: string[]): Promise<Evaluated> => {
  const { stdout, stderr } = await evaluate('--data', TEXT, '--json', ...args);
  assert.equal(stderr, '');
  return JSON.parse(stdout) as Evaluated;
};

test('prune writes a container for the model, and says which', async () => {
  const { code, stdout, stderr } = await prune('magnitude.mask', '--method', 'magnitude', '--json');
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
  const bytes = readFileSync(join(folder, 'magnitude.mask'));
  const set = readMaskSet(join(folder, 'magnitude.mask'));
  assert.equal(set.masks.length, 6 * 7);
  const said = JSON.parse(stdout) as Record<string, unknown>;
  assert.equal(said['file'], join(folder, 'magnitude.mask'));
  assert.equal(said['digest'], createHash('sha256').update(bytes).digest('hex'));
  assert.equal(said['baseDigest'], set.base);
  assert.equal(said['bytes'], bytes.length);
  assert.deepEqual(said['needs'], { parent: null, weights: true });
  assert.ok(bytes.length < 1000, 'a magnitude mask costs its tables');
  assert.equal(said['bitsPerParameter'], (8 * bytes.length) / 4_423_680);
  assert.deepEqual(
    readdirSync(folder).filter((name) => name.endsWith('.part')),
    [],
  );
});

test('a calibrated mask depends on the seed, and on nothing but its arguments', async () => {
  const calibrated = ['--method', 'wanda', '--data', TEXT, '--samples', '2', '--seq', '64'];
  await prune('a.mask', ...calibrated, '--seed', '1');
  await prune('b.mask', ...calibrated, '--seed', '1');
  await prune('c.mask', ...calibrated, '--seed', '2');
  const [a, b, c] = ['a', 'b', 'c'].map((name) => readFileSync(join(folder, `${name}.mask`), 'base64'));
  assert.equal(a, b);
  assert.notEqual(a, c);
});

test('sparsegpt takes several texts, and its mask hurts less on them than magnitude', async () => {
  const { code, stderr } = await prune(
    'sparsegpt.mask',
    ...['--method', 'sparsegpt', '--data', TEXT, '--data', join(TINY, '*.md'), '--samples', '32'],
  );
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
  const dense = await evaluated('--task', 'dense');
  const sparsegpt = await evaluated('--mask', join(folder, 'sparsegpt.mask'));
  const magnitude = await evaluated('--mask', join(folder, 'magnitude.mask'));
  assert.equal(sparsegpt.task, 'sparsegpt');
  assert.ok(dense.ppl < sparsegpt.ppl, `${dense.ppl} < ${sparsegpt.ppl}`);
  assert.ok(sparsegpt.ppl < magnitude.ppl, `${sparsegpt.ppl} < ${magnitude.ppl}`);
});

test('eval prints task, tokens, nll and ppl, and no more, for one task and one text', async () => {
  const result = await evaluated('--task', 'dense');
  assert.deepEqual(Object.keys(result), ['task', 'tokens', 'nll', 'ppl']);
  assert.equal(result.task, 'dense');
  assert.equal(result.tokens, 4 * 256);
  assert.ok(Math.abs(Math.exp(result.nll) - result.ppl) < 1e-9);
  assert.ok(result.ppl > 5 && result.ppl < 50, String(result.ppl));
});

test('several tasks and texts give an array, and people a matrix; with one text a table', async () => {
  const other = join(folder, 'other.txt');
  copyFileSync(TEXT, other);
  const args = ['--task', 'dense,general', '--data', TEXT, other, '--windows', '1'];
  const { stdout } = await evaluate(...args, '--json');
  const results = JSON.parse(stdout) as Evaluated[];
  assert.deepEqual(
    results.map(({ task, data }) => [task, data]),
    [
      ['dense', TEXT],
      ['dense', other],
      ['general', TEXT],
      ['general', other],
    ],
  );
  assert.equal(results[0]?.nll, results[1]?.nll);
  assert.notEqual(results[0]?.nll, results[2]?.nll);
  const matrix = (await evaluate(...args)).stdout.split('\n');
  assert.match(matrix[0] as string, /^PPL +Readme +other +AVERAGE$/);
  assert.equal(matrix.length, 1 + 2 + 1);
  const table = (await evaluate('--task', 'dense,general', '--data', TEXT, '--windows', '1')).stdout.split('\n');
  assert.match(table[0] as string, /^TASK +DATA +TOKENS +NLL +PPL$/);
  assert.equal(table.length, 1 + 2 + 1);
});

test('.jsonl documents are separated by the token that is asked for, with and without BOS', async () => {
  const jsonl = join(folder, 'documents.jsonl');
  const lines = readFileSync(TEXT, 'utf8')
    .split('\n')
    .filter((line) => line.length > 20);
  writeFileSync(jsonl, lines.map((text) => `${JSON.stringify({ text })}\n`).join(''));
  const nll = async (...args: string[]): Promise<number> => {
    const { stdout } = await evaluate('--task', 'dense', '--data', jsonl, '--json', ...args);
    return (JSON.parse(stdout) as Evaluated).nll;
  };
  const byDefault = await nll();
  assert.notEqual(await nll('--separator', '5'), byDefault);
  const { eos_token_id: eos } = JSON.parse(readFileSync(join(TINY, 'config.json'), 'utf8')) as { eos_token_id: number };
  assert.equal(await nll('--separator', String(eos)), byDefault);
  assert.notEqual(await nll('--no-bos'), byDefault);
});

test('--model and --mask need no --local beside them', async () => {
  const { code, stdout } = await maskctl(
    ['eval', '--model', TINY, '--task', 'dense', '--data', TEXT, '--windows', '1', '--json'],
    { env: { MASKSERVE_URL: 'http://127.0.0.1:9' } },
  );
  assert.equal(code, 0);
  assert.equal((JSON.parse(stdout) as Evaluated).tokens, 256);
});

test('a mask for other weights is refused before anything is evaluated', async () => {
  const foreign = join(folder, 'foreign.mask');
  const set = readMaskSet(join(folder, 'magnitude.mask'));
  writeFileSync(foreign, encodeMaskSet({ ...set, base: '00'.repeat(32) }));
  const { code, stdout, stderr } = await evaluate('--mask', foreign, '--data', TEXT);
  assert.deepEqual({ code, stdout }, { code: 1, stdout: '' });
  assert.match(
    stderr,
    /^maskctl: .*foreign\.mask: expected a mask set for the base weights [0-9a-f]{64}, got one for 0{64}: .*\n$/,
  );
});

test('prune --update makes a model that is better under the same mask than the weights it was made from', async () => {
  const calibrated = ['--method', 'sparsegpt', '--data', TEXT, '--samples', '16', '--threads', '1'];
  const directory = join(folder, 'updated');
  const { code, stdout, stderr } = await maskctl(['prune', ...calibrated, '--update', directory, '--json']);
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
  const general = join(directory, 'masks', 'general.mask');
  const { base } = readMaskSet(general);
  const said = JSON.parse(stdout) as Record<string, unknown>;
  assert.deepEqual([said['directory'], said['base']], [directory, base]);
  await prune('sparsegpt.mask', ...calibrated);
  const frozen = await evaluated('--mask', join(folder, 'sparsegpt.mask'));
  const updated = await evaluated('--model', directory, '--mask', general);
  assert.ok(
    updated.nll < frozen.nll - 0.05,
    `${updated.nll} under updated weights, ${frozen.nll} under the model's own`,
  );
});

test('Ctrl-C ends work in progress at once and quietly: a shell sees 130', async () => {
  const args = [
    'prune',
    '--method',
    'wanda',
    '--data',
    TEXT,
    '--samples',
    '100000',
    '--out',
    join(folder, 'long.mask'),
  ];
  const child = start(args);
  const ended = finished(child);
  await new Promise((resolve) => setTimeout(resolve, 500));
  child.kill('SIGINT');
  assert.deepEqual(await ended, { code: null, signal: 'SIGINT', stdout: '', stderr: '' });
});

test('what can not be run is refused with one line that says what to do', async () => {
  const occupied = join(folder, 'folder.mask');
  mkdirSync(occupied);
  const short = join(folder, 'short.txt');
  writeFileSync(short, 'too short');
  const out = ['--out', join(folder, 'never.mask')];
  const cases: [string[], number, RegExp][] = [
    [['prune', '--method', 'magnitude'], 2, /expected --out FILE, --task NAME or --update DIR/],
    [['prune', '--method', 'wanda', '--data', TEXT, '--update', occupied], 2, /expected --method sparsegpt beside/],
    [['prune', '--method', 'sparsegpt', '--data', TEXT, '--update', occupied, ...out], 2, /without --out and --task/],
    [['prune', '--method', 'sparsegpt', '--data', TEXT, '--update', short], 2, /expected --update to be a directory/],
    [['prune', '--method', 'wanda', ...out], 2, /expected --data: wanda looks at what text does/],
    [['prune', '--method', 'best', ...out], 2, /'best' is invalid\. Allowed choices are magnitude, wanda, sparsegpt/],
    [['prune', '--method', 'wanda', '--data', TEXT, '--seq', '257', ...out], 2, /Expected an integer from 1 to 256/],
    [['prune', '--method', 'magnitude', '--out', occupied], 2, /expected a file name but received the directory/],
    [
      ['prune', '--method', 'magnitude', '--out', join(folder, 'no', 'x.mask')],
      2,
      /expected a directory at .*no to write/,
    ],
    [['prune', '--method', 'magnitude', '--task', 'dense'], 1, /"dense" is reserved/],
    [['prune', '--method', 'wanda', '--data', join(folder, '*.nothing'), ...out], 1, /nothing matches; check --data/],
    [
      ['prune', '--method', 'wanda', '--data', short, ...out],
      1,
      /expected more than 256 tokens of text in each --data/,
    ],
    [['prune', '--method', 'magnitude', '--model', folder, ...out], 1, /config\.json/],
    [['prune', '--method', 'magnitude', '--model', join(folder, 'no'), ...out], 1, /expected a model directory at/],
    [['eval', '--local', '--data', TEXT], 2, /expected --task NAME \(or --mask FILE\)/],
    [['eval', '--local', '--task', 'dense'], 2, /required option '--data <file\.\.\.>' not specified/],
    [['eval', '--local', '--task', 'dense,', '--data', TEXT], 2, /names separated by commas/],
    [['eval', '--task', 'a,b', '--mask', TEXT, '--data', TEXT], 2, /expected one --task beside --mask/],
    [
      ['eval', '--local', '--task', 'nobody', '--data', TEXT],
      1,
      /no task "nobody" comes with .*: expected one of dense, /,
    ],
    [
      ['eval', '--local', '--task', 'dense', '--data', TEXT, short],
      1,
      /short\.txt: expected text of more than 256 tokens/,
    ],
    [
      ['eval', '--local', '--task', 'dense', '--data', TEXT, '--separator', '999999'],
      1,
      /expected a separator token id below 4096/,
    ],
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
  assert.ok(!readdirSync(folder).some((name) => basename(name).startsWith('never')));
});
