/** The defaults are the paper's where they claim to be, and the schedules what they say. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LARGEST_STEP, maskTrainingDefaults } from '../../../server/trainer/defaults.js';
import { scheduleShare, scheduleSum } from '../../../server/trainer/optimizer.js';
import { peakLearningRate } from '../../../server/trainer/run-learner.js';

test('gumbel has the constants of MaskLLM’s Table 7', () => {
  const {
    learningRate,
    sigma,
    priorStrength,
    scale,
    temperature,
    regularisation,
    beta1,
    beta2,
    epsilon,
    weightDecay,
    clip,
    loss,
  } = maskTrainingDefaults('gumbel', false);
  assert.deepEqual(
    {
      learningRate,
      sigma,
      priorStrength,
      scale,
      temperature,
      regularisation,
      beta1,
      beta2,
      epsilon,
      weightDecay,
      clip,
      loss,
    },
    {
      learningRate: 5e-4,
      sigma: 0.01,
      priorStrength: 3,
      scale: [100, 500],
      temperature: [4, 0.05],
      regularisation: 1e-5,
      beta1: 0.9,
      beta2: 0.95,
      epsilon: 1e-5,
      weightDecay: 0.1,
      clip: 1,
      loss: 'lm',
    },
  );
});

test('straight-through scores set how far they go, and the rate follows from it', () => {
  const general = maskTrainingDefaults('ste', false);
  const rate = peakLearningRate(general);
  assert.ok(Math.abs((rate * scheduleSum(general)) / general.margin - general.travel) < 1e-9);
  assert.equal(peakLearningRate({ ...general, learningRate: 0.25 }), 0.25);
  const half = peakLearningRate({ ...general, travel: general.travel / 2 });
  assert.ok(Math.abs(rate / half - 2) < 1e-12);
  const few = peakLearningRate({ ...general, steps: 3 });
  assert.equal(few, general.margin * LARGEST_STEP, 'few steps go less far, not too fast');
  const gumbel = { ...maskTrainingDefaults('gumbel', false), learningRate: undefined };
  assert.ok(Math.abs((peakLearningRate(gumbel) * scheduleSum(gumbel)) / (3 * 0.01) - gumbel.travel) < 1e-9);
});

test('the rate warms up to its peak and falls along a cosine to its floor', () => {
  const schedule = { steps: 101, warmup: 10, floor: 0.1 };
  assert.ok(Math.abs(scheduleShare(schedule, 0) - 0.1) < 1e-3);
  assert.ok(scheduleShare(schedule, 9) > 0.97);
  assert.ok(Math.abs(scheduleShare(schedule, 50) - 0.55) < 1e-12);
  assert.ok(Math.abs(scheduleShare(schedule, 100) - 0.1) < 1e-12);
});
