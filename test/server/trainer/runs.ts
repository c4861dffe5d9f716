/** Small runs on the embedded model for the trainer's tests: batches of 2 × 64 tokens of a repetitive text that a mask learns within ten steps. */
import assert from 'node:assert/strict';
import type { MaskSet } from '../../../codec/mask-set.js';
import type { Model } from '../../../server/engine/model.js';
import { maskTrainingDefaults } from '../../../server/trainer/defaults.js';
import { runTraining, type RunOptions } from '../../../server/trainer/run.js';
import type {
  MaskTrainingSettings,
  TrainFinished,
  TrainMethod,
  TrainRequest,
  TrainStarted,
  TrainStep,
} from '../../../server/trainer/types.js';

const ANIMALS = ['cat', 'dog', 'cow'];
const SIGHTS = ['moon', 'sun', 'sea'];

/** 40 documents, about 250 tokens each. */
export const DOCUMENTS: readonly string[] = Array.from({ length: 40 }, (_, i) =>
  Array.from({ length: 12 }, (_, k) => {
    return `The ${ANIMALS[(i + k) % 3] ?? ''} number ${i} sat on mat ${k} and looked at the ${SIGHTS[(i * k) % 3] ?? ''}.\n`;
  }).join(''),
);

/** Magnitude prior, high rate, small ε, no long warm-up: enough to move a mask in ten steps. */
export function settings(given: Partial<MaskTrainingSettings> = {}): MaskTrainingSettings {
  const method: TrainMethod = given.method ?? 'ste';
  return {
    ...maskTrainingDefaults(method, false),
    loss: 'lm',
    prior: 'magnitude',
    steps: 10,
    batch: 2,
    seq: 64,
    warmup: 1,
    learningRate: 3e-3,
    epsilon: 1e-8,
    evaluateEvery: 0,
    evaluateWindows: 2,
    ...given,
  };
}

export function request(given: Partial<MaskTrainingSettings> = {}, more: Partial<TrainRequest> = {}): TrainRequest {
  return {
    task: 'cats',
    sources: [{ name: 'cats.txt', documents: DOCUMENTS }],
    guards: [],
    settings: settings(given),
    force: false,
    ...more,
  };
}

export interface Run {
  readonly started: TrainStarted;
  readonly steps: readonly TrainStep[];
  readonly finished: TrainFinished;
  readonly set: MaskSet;
}

/** Drains a run; `onStep` sees each step. */
export async function run(
  model: Model,
  wanted: TrainRequest,
  options: RunOptions = {},
  onStep?: (step: TrainStep) => void,
): Promise<Run> {
  const events = runTraining(model, wanted, options);
  const steps: TrainStep[] = [];
  let [started, finished]: [TrainStarted?, TrainFinished?] = [];
  let next = await events.next();
  for (; !next.done; next = await events.next()) {
    const event = next.value;
    if (event.type === 'started') started = event;
    else if (event.type === 'finished') finished = event;
    else {
      steps.push(event);
      onStep?.(event);
    }
  }
  assert.ok(started && finished);
  return { started, steps, finished, set: next.value };
}

/** What must be equal bit for bit. */
export function losses(steps: readonly TrainStep[]): number[][] {
  return steps.map(({ step, loss, lm, kl, gradientNorm, heldOutPerplexity, changed, bitsPerParameter }) => [
    step,
    loss,
    lm,
    kl,
    gradientNorm,
    heldOutPerplexity ?? 0,
    changed ?? 0,
    bitsPerParameter ?? 0,
  ]);
}
