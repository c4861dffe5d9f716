/** AdamW over many parameter tensors with clipping by their joint norm, and the schedules of the learning rate. */
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import type { Buffers } from './activations.js';

export interface AdamWSettings {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  /**
   * Adds this share of the step's root mean square gradient (after clipping) to ε. At 0 every parameter moves at the same rate, noise or not; from about 1 on only
   * those whose gradient stands out do, whatever the model's gradient scale.
   */
  readonly relativeEpsilon?: number;
  /** Soft threshold of a parameter's steadiness m̂/(√v̂ + ε), which is 1 at most; noise is around √((1 − β1)/(1 + β1)). 0: none. */
  readonly threshold?: number;
  /** Raises the threshold by this times √v̂, of gradients before clipping: m̂ of a parameter with curvature c·√v̂ gains m̂ − c·v̂. 0: not at all. */
  readonly curvature?: number;
  readonly weightDecay: number;
  /** Largest joint L2 norm of the gradients; 0: no clipping. */
  readonly clip: number;
}

/** One tensor of `count` f32 parameters. */
export interface Parameter {
  readonly name: string;
  readonly values: Handle;
  readonly gradients: Handle;
  /** NO_BUFFER where β1 is 0: the first moment is the gradient itself. */
  readonly firstMoments: Handle;
  readonly secondMoments: Handle;
  readonly count: number;
}

/** Bytes a parameter: value, gradient, and its moments. */
export function parameterBytes(beta1: number): number {
  return beta1 > 0 ? 16 : 12;
}

/** `momentum`: whether β1 is above 0. */
export function allocateParameter(buffers: Buffers, name: string, count: number, momentum: boolean): Parameter {
  return {
    name,
    values: buffers.f32(count),
    gradients: buffers.f32(count),
    firstMoments: momentum ? buffers.f32(count) : NO_BUFFER,
    secondMoments: buffers.f32(count),
    count,
  };
}

/**
 * One AdamW step (`step` from 1) on all parameters. Returns the gradients' joint norm before clipping. Throws when it is not
 * finite, naming the tensor.
 */
export function adamwStep(
  parameters: readonly Parameter[],
  settings: AdamWSettings,
  learningRate: number,
  step: number,
): number {
  let [squares, total] = [0, 0];
  for (const { name, gradients, count } of parameters) {
    const sum = native.sumOfSquares(gradients, count);
    if (!Number.isFinite(sum)) throw new DivergenceError(step, name);
    squares += sum;
    total += count;
  }
  const norm = Math.sqrt(squares);
  const gradientScale = settings.clip > 0 ? Math.min(1, settings.clip / (norm + 1e-6)) : 1;
  const rms = (norm * gradientScale) / Math.sqrt(Math.max(1, total));
  const curvature = (settings.curvature ?? 0) / gradientScale; // moments are of scaled gradients
  const epsilon = settings.epsilon + (settings.relativeEpsilon ?? 0) * rms;
  for (const parameter of parameters) {
    native.adamw(
      parameter.values,
      parameter.gradients,
      parameter.firstMoments,
      parameter.secondMoments,
      parameter.count,
      { threshold: 0, ...settings, curvature, epsilon, learningRate, step, gradientScale },
    );
  }
  return norm;
}

/** A gradient or loss became NaN or infinite. */
export class DivergenceError extends Error {
  constructor(step: number, what: string) {
    super(
      `training diverged at step ${step}: ${what} is not finite; lower the learning rate (--travel or --lr), or resume from an earlier checkpoint`,
    );
    this.name = 'DivergenceError';
  }
}

export interface Schedule {
  readonly steps: number;
  readonly warmup: number;
  /** Share of the peak that the cosine ends at. */
  readonly floor: number;
}

/** Learning rate of step s (from 0) as a share of the peak: linear warm-up, cosine to `floor`. */
export function scheduleShare({ steps, warmup, floor }: Schedule, s: number): number {
  const progress = s / Math.max(1, steps - 1);
  const cosine = floor + ((1 - floor) / 2) * (1 + Math.cos(Math.PI * progress));
  return cosine * Math.min(1, (s + 1) / Math.max(1, warmup));
}

/** Σ of the shares over all steps: the distance a parameter goes at peak rate 1 when every step has the same sign. */
export function scheduleSum(schedule: Schedule): number {
  let sum = 0;
  for (let s = 0; s < schedule.steps; s++) sum += scheduleShare(schedule, s);
  return sum;
}
