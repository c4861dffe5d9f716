import assert from 'node:assert/strict';
import { test } from 'node:test';
import { duration, relative, TrainingReport } from '../../../clients/cli/training-report.js';
import type { TrainStarted, TrainStep } from '../../../server/trainer/types.js';

const STARTED: TrainStarted = {
  type: 'started',
  task: 'french',
  steps: 150,
  resumedFrom: 0,
  backend: 'cpu',
  trainTokens: 1e6,
  heldOutTokens: 4096,
  learningRate: 1e-3,
  priorPerplexity: 20,
  memory: { activationBytes: 1, learnerBytes: 1, bytesPerWeight: 18.125, recomputes: false },
};

function step(number: number, look: Partial<TrainStep> = {}): TrainStep {
  return {
    ...{ type: 'step', step: number, steps: 150, loss: 2.5, lm: 2.5, kl: 0, learningRate: 1e-3, gradientNorm: 1 },
    ...{ tokensPerSecond: 3912.4, secondsLeft: 75 },
    ...look,
  } as TrainStep;
}

class Screen {
  readonly isTTY = true;
  readonly lines: string[] = [];
  constructor(readonly columns = 200) {}
  write(text: string): void {
    this.lines.push(text.replace('\r\x1b[K', ''));
  }
}

/** What goes to stdout meanwhile is not looked at here. */
async function quietly(work: () => void): Promise<void> {
  const write = process.stdout.write;
  process.stdout.write = () => true;
  try {
    await Promise.resolve(work());
  } finally {
    process.stdout.write = write;
  }
}

test('how sure a sampled mask is stands beside it', async () => {
  const screen = new Screen();
  await quietly(() => {
    const look = { heldOutPerplexity: 18, changed: 0.0121, bitsPerParameter: 0.0284, maxProbability: 0.876 };
    new TrainingReport({ json: false, logEvery: 10 }, screen).show(step(75, look));
  });
  assert.match(
    screen.lines[0] ?? '',
    / {2}1\.21% changed, 0\.0284 bit\/param {2}max probability 0\.88 {2}3,912 tokens\/s /,
  );
});

test('a terminal shows one line that keeps what the last look saw', async () => {
  const screen = new Screen();
  const report = new TrainingReport({ json: false, logEvery: 10 }, screen);
  await quietly(() => {
    report.show(STARTED);
    report.show(step(74));
    report.show(step(75, { heldOutPerplexity: 18, changed: 0.0121, bitsPerParameter: 0.0284 }));
    report.show(step(76));
    report.end();
    report.end();
  });
  assert.deepEqual(screen.lines, [
    'step 74/150  ███████░░░░░░░░░  loss 2.500  3,912 tokens/s  1 min 15 s left',
    'step 75/150  ████████░░░░░░░░  loss 2.500  held-out 18.00 (from 20.00, −10.0%)  1.21% changed, 0.0284 bit/param  3,912 tokens/s  1 min 15 s left',
    'step 76/150  ████████░░░░░░░░  loss 2.500  held-out 18.00 (from 20.00, −10.0%)  1.21% changed, 0.0284 bit/param  3,912 tokens/s  1 min 15 s left',
    '',
  ]);
});

test('a narrow terminal gets no line that wraps', async () => {
  const screen = new Screen(40);
  await quietly(() => new TrainingReport({ json: false, logEvery: 10 }, screen).show(step(1)));
  assert.equal(screen.lines[0]?.length, 39);
});

test('durations and differences read as people say them', () => {
  assert.deepEqual([0, 59.4, 60, 3599, 3600, 7380].map(duration), [
    '0 s',
    '59 s',
    '1 min 00 s',
    '59 min 59 s',
    '1 h 00 min',
    '2 h 03 min',
  ]);
  assert.deepEqual([relative(18, 20), relative(22, 20), relative(20, 20)], ['−10.0%', '+10.0%', '+0.0%']);
});
