/** Which loss a step has, where a run goes from one to another: `kl:100,lm:60` is a hundred steps of KL to the teacher, then sixty of the LM loss. */
import type { TrainLoss } from './types.js';

/** Share of the loss that is KL(teacher ‖ student); the rest is the LM loss. */
export const KL_WEIGHT: Readonly<Record<TrainLoss, number>> = { lm: 0, mix: 0.5, kl: 1 };

/** A teacher's perplexity is at most this share of the start's, or there is too little to learn from it. */
const CLEARLY_BETTER = 0.92;

/**
 * The loss of a transfer that named none: half KL keeps what the text does not show, but holds back a start that is as good on this text as the teacher. Measured on a SmolLM2 that was prepared for
 * 500 steps, 60 steps each: python (8.97, its teacher 8.40, a share of 0.94) ends at 8.98 with half KL and at 8.85 with LM alone. The domains of models/tiny (0.85 to 0.91) learn from half KL.
 */
export function lossAgainst(teacherPerplexity: number, startPerplexity: number): TrainLoss {
  return teacherPerplexity <= CLEARLY_BETTER * startPerplexity ? 'mix' : 'lm';
}

export interface LossPhase {
  readonly klWeight: number;
  readonly steps: number;
}

const PHASE = /^(lm|kl|mix|0?\.\d+)(?::(\d+))?$/;

/**
 * `steps` of half KL, half LM, then as many of LM. Measured on SmolLM2 after 40 steps at a rate of 5e-4 (start 64, original 17.0): KL alone 27.2, half of each 22.7, LM alone 22.1; KL keeps
 * what the text does not show, and caps the base at the original if it stays.
 */
export function mixThenLm(steps: number): LossPhase[] {
  const mixed = Math.ceil(steps / 2);
  return [
    { klWeight: KL_WEIGHT.mix, steps: mixed },
    { klWeight: KL_WEIGHT.lm, steps: steps - mixed },
  ].filter((phase) => phase.steps > 0);
}

/**
 * Parses phases, separated by commas: lm, kl, mix, or a share of KL such as 0.7, each with `:steps`. A single phase may leave them out and has `steps`.
 * Throws a RangeError that says what was expected.
 */
export function parseLossSchedule(text: string, steps?: number): LossPhase[] {
  const parts = text.split(',').map((part) => part.trim());
  const phases = parts.map((part): LossPhase => {
    const [, loss = '', count] = PHASE.exec(part) ?? [];
    const length = count === undefined && parts.length === 1 ? steps : Number(count ?? NaN);
    if (loss === '' || length === undefined || Number.isNaN(length)) throw new RangeError(expectation(text));
    return { klWeight: isLoss(loss) ? KL_WEIGHT[loss] : Number(loss), steps: length };
  });
  const sum = totalSteps(phases);
  if (steps !== undefined && sum !== steps) {
    throw new RangeError(
      `expected the phases of --loss ${text} to have ${steps} steps together, as --steps says, but they have ${sum}`,
    );
  }
  return phases;
}

export function totalSteps(phases: readonly LossPhase[]): number {
  return phases.reduce((sum, { steps }) => sum + steps, 0);
}

/** Whether any step asks a teacher. */
export function hasKl(phases: readonly LossPhase[]): boolean {
  return phases.some(({ klWeight, steps }) => klWeight > 0 && steps > 0);
}

/** KL's share at step s (from 0). */
export function klWeightAt(phases: readonly LossPhase[], s: number): number {
  let end = 0;
  return (phases.find(({ steps }) => s < (end += steps)) ?? phases.at(-1))?.klWeight ?? 0;
}

function isLoss(text: string): text is TrainLoss {
  return text in KL_WEIGHT;
}

function expectation(text: string): string {
  return `expected --loss to be like kl:100,lm:60 (each lm, kl, mix or a share of KL such as 0.7, with its steps), or one of these with --steps, but received ${text}`;
}
