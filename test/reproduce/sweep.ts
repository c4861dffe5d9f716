/** The sweep that decides defaults: how far logits may travel × steps × method × loss × seeds, each from the same SparseGPT mask. */
import { maskTrainingDefaults } from '../../server/trainer/defaults.js';
import { peakLearningRate } from '../../server/trainer/run-learner.js';
import type { TrainLoss, TrainMethod } from '../../server/trainer/types.js';
import type { Budget } from './budget.js';
import { describe, type CellResult, type LearnedCell } from './cells.js';

const METHODS: readonly TrainMethod[] = ['ste', 'gumbel'];
const LOSSES: readonly TrainLoss[] = ['lm', 'kl', 'mix'];

/** One line: the same settings at every seed. */
export interface SweepPoint {
  readonly method: TrainMethod;
  readonly loss: TrainLoss;
  readonly steps: number;
  readonly travel: number;
  readonly cells: readonly LearnedCell[];
}

export interface SweepLine extends Omit<SweepPoint, 'cells'> {
  /** Peak: what the travel comes to, at most LARGEST_STEP margins. */
  readonly learningRate: number;
  /** Of the first seed. */
  readonly settings: string;
  readonly seeds: number;
  /** Average over all domains: mean, least and largest over seeds. */
  readonly perplexity: number;
  readonly least: number;
  readonly largest: number;
  readonly changed: number;
  readonly bitsPerParameter: number;
}

export function sweepPoints(budget: Budget): SweepPoint[] {
  return METHODS.flatMap((method) =>
    LOSSES.flatMap((loss) =>
      budget.sweepSteps.flatMap((steps) =>
        budget.sweepTravels.map((travel) => {
          const point = { method, loss, steps, travel };
          return { ...point, cells: budget.sweepSeeds.map((seed) => sweepCell(budget, { ...point, seed })) };
        }),
      ),
    ),
  );
}

/** `results`: of the point's cells. */
export function sweepLine(
  { method, loss, steps, travel, cells }: SweepPoint,
  results: readonly CellResult[],
): SweepLine {
  const averages = results.map(({ perplexities }) => mean(Object.values(perplexities)));
  const [first] = cells as [LearnedCell, ...LearnedCell[]];
  return {
    method,
    loss,
    steps,
    travel,
    learningRate: peakLearningRate(first.settings),
    settings: describe(first),
    seeds: results.length,
    perplexity: mean(averages),
    least: Math.min(...averages),
    largest: Math.max(...averages),
    changed: mean(results.map(({ changed }) => changed ?? 0)),
    bitsPerParameter: mean(results.map(({ bitsPerParameter }) => bitsPerParameter ?? 0)),
  };
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function sweepCell(
  { batch, seq, calibrationWindows }: Budget,
  { method, loss, steps, travel, seed }: Omit<SweepPoint, 'cells'> & { readonly seed: number },
): LearnedCell {
  const defaults = { ...maskTrainingDefaults(method, false), learningRate: undefined }; // by travel
  return {
    kind: 'learned',
    text: 'all',
    settings: {
      ...defaults,
      loss,
      travel,
      seed,
      steps,
      batch,
      seq,
      evaluateEvery: 0,
      evaluateWindows: 1,
    },
    from: { kind: 'one-shot', method: 'sparsegpt', text: 'all', calibrationWindows, seed: 0, update: false },
  };
}
