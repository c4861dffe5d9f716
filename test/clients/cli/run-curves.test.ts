/** --plot: the curves of a run. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { RunCurves } from '../../../clients/cli/pictures/run-curves.js';
import type { TrainFinished, TrainStarted, TrainStep } from '../../../server/trainer/types.js';
import { DOCUMENTS } from '../../server/trainer/runs.js';
import { maskctl } from './maskctl.js';
import { decodePng, labelsOf } from './pictures-decoded.js';

const folder = mkdtempSync(join(tmpdir(), 'maskctl-plot-'));
after(() => rmSync(folder, { recursive: true }));
const file = (name: string): string => join(folder, name);

const started = (resumedFrom: number): TrainStarted => ({
  ...{ type: 'started', task: 'french', steps: 4, resumedFrom, backend: 'cpu', trainTokens: 1e6, heldOutTokens: 4096 },
  ...{ learningRate: 1e-3, priorPerplexity: 20 },
  memory: { activationBytes: 1, learnerBytes: 1, bytesPerWeight: 18.125, recomputes: false },
});
const step = (number: number, lm: number, kl: number, heldOutPerplexity?: number): TrainStep => ({
  ...{ type: 'step', step: number, steps: 4, loss: (lm + kl) / 2, lm, kl, learningRate: 1e-3, gradientNorm: 1 },
  ...{ tokensPerSecond: 1, secondsLeft: 1, ...(heldOutPerplexity === undefined ? {} : { heldOutPerplexity }) },
});
const finished: TrainFinished = {
  ...{
    type: 'finished',
    task: 'french',
    step: 4,
    changed: 0.01,
    bitsPerParameter: 0.02,
    publishable: true,
    seconds: 1,
  },
  heldOut: [
    { source: 'own', guard: false, dense: 16.5, prior: 20, mask: 18 },
    { source: 'other', guard: true, dense: 99, prior: 99, mask: 99 },
  ],
};

/** Points of a series. */
function pointsOf(svg: string, name: string): number {
  const d = new RegExp(`<path aria-label="${name}" d="([^"]*)"`).exec(svg)?.[1];
  return d === undefined ? 0 : d.split(/[ML]/).length - 1;
}

test('loss and its parts above, held-out perplexity from the start on below, with the start and dense as levels', () => {
  const curves = new RunCurves();
  for (const event of [
    started(0),
    step(1, 4, 1),
    step(2, 3, 1, 19),
    step(3, 3, 0.5),
    step(4, 2.5, 0.5, 18),
    finished,
  ]) {
    curves.see(event);
  }
  const svg = curves.svg();
  const labels = labelsOf(svg);
  for (const label of [
    ...[
      'french: loss of each batch, 4 steps',
      'nats per token',
      'loss',
      'next token (LM)',
      'KL to the teacher',
      'step',
    ],
    ...['french: perplexity on held-out text', 'as it is learned', 'start 20.00', 'dense 16.50'],
  ]) {
    assert.ok(labels.includes(label), `${label} in ${labels.join(', ')}`);
  }
  assert.deepEqual([pointsOf(svg, 'loss'), pointsOf(svg, 'as it is learned')], [4, 3]);
});

test('a run that goes on from a checkpoint replaces the steps that it does again; without KL there is one loss', () => {
  const curves = new RunCurves();
  for (const event of [started(0), step(1, 4, 0), step(2, 3, 0), started(1), step(2, 3, 0, 19)]) curves.see(event);
  const svg = curves.svg();
  assert.equal(pointsOf(svg, 'loss \\(next token\\)'), 2);
  assert.ok(!labelsOf(svg).includes('KL to the teacher'));
});

const TEXT = file('cats.jsonl');
writeFileSync(TEXT, DOCUMENTS.map((text) => `${JSON.stringify({ text })}\n`).join(''));
const small = (...more: string[]): string[] => [
  ...['--data', TEXT, '--threads', '1', '--steps', '3', '--batch', '2', '--seq', '64', '--warmup', '1', '--loss', 'lm'],
  ...['--evaluate-windows', '2', '--evaluate-every', '1', '--force', ...more],
];
const train = (...more: string[]): string[] => [
  ...['train', '--task', 'cats', '--local', '--prior', 'magnitude', ...small(...more)],
];

test('maskctl train --plot writes a picture of both curves, and says so', async () => {
  const { code, stdout, stderr } = await maskctl(train('--out', file('a.mask'), '--plot', file('a.png')));
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^curves: .*a\.png$/m);
  const { width, height } = await decodePng(readFileSync(file('a.png')));
  assert.deepEqual([width, height], [960, 1080]);
});

test('maskctl prepare --plot too, as SVG, and as an event with --json', async () => {
  const out = ['--out', file('model'), '--mask', 'general', '--plot', file('b.svg'), '--json'];
  const { code, stdout, stderr } = await maskctl(['prepare', ...small(...out)]);
  assert.equal(code, 0, stderr);
  assert.ok(stdout.split('\n').includes(JSON.stringify({ type: 'plotted', file: file('b.svg') })));
  assert.ok(labelsOf(readFileSync(file('b.svg'), 'utf8')).includes('general: perplexity on held-out text'));
});

test('a file that can not be a picture is refused before any work', async () => {
  const { code, stderr, stdout } = await maskctl(train('--out', file('c.mask'), '--plot', file('c.gif')));
  assert.deepEqual({ code, stdout }, { code: 2, stdout: '' });
  assert.match(
    stderr,
    /^maskctl: expected --plot to be a file name that ends in \.png or \.svg but received .*c\.gif\n$/,
  );
  assert.equal(existsSync(file('c.mask')), false);
});
