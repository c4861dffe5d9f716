/** Settings → the learner of a mask and its optimizer. */
import { Gumbel } from './gumbel.js';
import { CHURN_BYTES_PER_SCORE, type ChurnSettings } from './churn-penalty.js';
import { LARGEST_STEP } from './defaults.js';
import type { Learner } from './learner.js';
import { patternNamed, patternOf, type MaskedModel } from './n-of-m.js';
import { parameterBytes, scheduleShare, scheduleSum, type AdamWSettings, type Schedule } from './optimizer.js';
import type { CodesByName } from './nibbles.js';
import type { RunShape } from './run-memory.js';
import { StraightThrough, straightThroughBytesPerWeight } from './straight-through.js';
import type { MaskTrainingSettings } from './types.js';

const BF16 = 2;

/** `start`: the mask to start from; undefined (gumbel alone): random logits. */
export function createLearner(
  masked: MaskedModel,
  start: CodesByName | undefined,
  settings: MaskTrainingSettings,
): Learner {
  const pattern = patternOf(masked);
  const { method, margin, sigma, priorStrength, scale, temperature, regularisation, seed } = settings;
  const prior = start && ((matrix: { readonly name: string }) => start.get(matrix.name) as Uint8Array);
  const churn = churnOf(settings);
  const momentum = settings.beta1 > 0;
  if (method === 'gumbel') {
    if (churn && (!prior || priorStrength === 0)) {
      throw new Error(
        'expected a prior, and a --prior-strength above 0, beside --rate or --max-bits: logits are pulled to its pattern',
      );
    }
    const options = {
      sigma,
      priorStrength,
      scale,
      temperature,
      regularisation,
      seed,
      pattern,
      momentum,
      type: 'bf16',
    } as const;
    return new Gumbel(masked.weights, prior, { ...options, ...(churn ? { churn } : {}) });
  }
  if (!prior)
    throw new Error('expected a prior for --method ste: it has no random start (--prior none needs --method gumbel)');
  return new StraightThrough(masked.weights, prior, margin, { momentum, pattern, ...(churn ? { churn } : {}) });
}

/** Undefined when changes cost nothing. */
function churnOf(settings: MaskTrainingSettings): ChurnSettings | undefined {
  const { rate, maxBits } = settings;
  if (rate === 0 && maxBits === undefined) return undefined;
  const peak = peakLearningRate(settings) / marginOf(settings);
  const schedule = scheduleOf(settings);
  return {
    rate,
    ...(maxBits === undefined ? {} : { maxBits }),
    stepShare: (s) => peak * scheduleShare(schedule, s),
  };
}

export function scheduleOf({ steps, warmup, floor }: Schedule): Schedule {
  return { steps, warmup, floor };
}

/**
 * Peak learning rate: as given, or such that the sum over all steps is `travel` times the prior's margin (gumbel's is α·σ, Eq. 10), but at most
 * LARGEST_STEP of the margin: a run of few steps goes less far rather than too fast.
 */
export function peakLearningRate(settings: MaskTrainingSettings): number {
  if (settings.learningRate !== undefined) return settings.learningRate;
  return marginOf(settings) * Math.min(LARGEST_STEP, settings.travel / scheduleSum(scheduleOf(settings)));
}

/** How far the prior is ahead. */
function marginOf({ method, margin, priorStrength, sigma }: MaskTrainingSettings): number {
  return method === 'ste' ? margin : priorStrength * sigma;
}

/**
 * A weight's curvature is about N·v, N the tokens of a batch and v its gradient's second moment (the empirical Fisher: a token's squared gradient is N times that of their mean). What a flip
 * gains is m − N·v/2 then, to second order.
 */
export function optimizerOf(settings: AdamWSettings & RunShape): AdamWSettings {
  const { beta1, beta2, epsilon, relativeEpsilon = 0, curvature = 0, weightDecay, clip, batch, seq } = settings;
  const perGradient = (curvature * batch * seq) / 2;
  return { beta1, beta2, epsilon, relativeEpsilon, curvature: perGradient, weightDecay, clip };
}

/** Bytes a weight under the mask. Gumbel: a logit for each pattern of a group, soft-masked copy. */
export function learnerBytesPerWeight({ method, rate, maxBits, pattern, beta1 }: MaskTrainingSettings): number {
  const table = patternNamed(pattern);
  const priced = rate > 0 || maxBits !== undefined ? CHURN_BYTES_PER_SCORE : 0;
  const parameter = parameterBytes(beta1) + priced;
  if (method === 'gumbel') return (parameter * table.count) / table.m + BF16;
  return parameter + straightThroughBytesPerWeight(table);
}
