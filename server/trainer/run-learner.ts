/** Settings → the learner of a mask, its optimizer and its memory. */
import type { Model } from '../engine/model.js';
import { totalmem } from 'node:os';
import { layerBytes } from './activations.js';
import { Gumbel } from './gumbel.js';
import { CHURN_BYTES_PER_SCORE, type ChurnSettings } from './churn-penalty.js';
import { LARGEST_STEP } from './defaults.js';
import { maskedParameters } from './kept-dense.js';
import type { Learner } from './learner.js';
import { patternNamed, patternOf, type MaskedModel } from './n-of-m.js';
import { parameterBytes, scheduleShare, scheduleSum, type AdamWSettings, type Schedule } from './optimizer.js';
import type { CodesByName } from './nibbles.js';
import { StraightThrough, straightThroughBytesPerWeight } from './straight-through.js';
import type { MaskTrainingSettings } from './types.js';

const F32 = 4;
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

export interface RunShape {
  readonly batch: number;
  readonly seq: number;
}

/** Throws one line when the machine can't hold the run, before anything is allocated. */
export function checkMemory(masked: Model, shape: RunShape, bytesPerWeight: number, activationBytes: number): void {
  const all = allLayersBytes(masked, shape);
  const { layers, hidden } = masked.config;
  const residual = layers * shape.batch * shape.seq * hidden * F32;
  const kept = residual + (all > activationBytes ? all / layers : all);
  const needed = kept + maskedParameters(masked) * bytesPerWeight;
  if (needed <= totalmem()) return;
  const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  throw new Error(
    `expected ${gib(needed)} of memory for this run (${gib(kept)} of activations, ${bytesPerWeight.toFixed(1)} bytes for each weight under the mask), but the machine has ${gib(totalmem())}; lower --batch, --seq or --activation-bytes, or keep layers dense`,
  );
}

/** Bytes a weight under the mask. Gumbel: a logit for each pattern of a group, soft-masked copy. */
export function learnerBytesPerWeight({ method, rate, maxBits, pattern, beta1 }: MaskTrainingSettings): number {
  const table = patternNamed(pattern);
  const priced = rate > 0 || maxBits !== undefined ? CHURN_BYTES_PER_SCORE : 0;
  const parameter = parameterBytes(beta1) + priced;
  if (method === 'gumbel') return (parameter * table.count) / table.m + BF16;
  return parameter + straightThroughBytesPerWeight(table);
}

/** Whether activations of all layers exceed the budget, so that the backward pass recomputes them. */
export function recomputes(model: Model, shape: RunShape, activationBytes: number): boolean {
  return allLayersBytes(model, shape) > activationBytes;
}

/** Every layer runs, masked or not. */
function allLayersBytes({ config }: Model, { batch, seq }: RunShape): number {
  return layerBytes(config, { batch, tokens: seq }) * config.layers;
}
