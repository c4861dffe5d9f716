/**
 * The loop that every kind of training shares: batch → effective weights → (teacher) → loss and gradients → AdamW. One call of `step` is one step, so that whoever drives
 * it can report, save, serve and stop in between.
 */
import type { Model } from '../engine/model.js';
import type { ModelWeights } from '../engine/weights.js';
import type { WeightLearner } from './learner.js';
import { adamwStep, DivergenceError, scheduleShare, type AdamWSettings, type Schedule } from './optimizer.js';
import type { PassOptions } from './pass-buffers.js';
import { drawBatch, type BatchPart } from './streams.js';
import { TrainingPass, type Losses, type LossShare } from './training-pass.js';

export interface TrainingSettings extends PassOptions {
  readonly schedule: Schedule;
  /** Peak. */
  readonly learningRate: number;
  readonly optimizer: AdamWSettings;
  /** Share of KL(teacher ‖ student) in the loss at step s (from 0) of all; the rest is the LM loss. */
  readonly klWeight: (step: number, steps: number) => number;
  readonly seed: number;
  /** Sequences of a batch that are text of other domains; KL alone is their loss. None without it. */
  readonly guards?: BatchPart;
}

export interface StepReport extends Losses {
  /** Steps done, this one included. */
  readonly step: number;
  readonly learningRate: number;
  /** Joint norm of the gradients before clipping. */
  readonly gradientNorm: number;
  readonly milliseconds: number;
}

export class Training {
  private readonly pass: TrainingPass;
  private done: number;

  /** `teacher`: the model that KL is taken to; the dense one itself unless given, and never freed here. `from`: steps already done, for a resumed run. */
  constructor(
    model: Model,
    private readonly learner: WeightLearner,
    streams: readonly Int32Array[],
    private readonly settings: TrainingSettings,
    options: { readonly teacher?: ModelWeights; readonly from?: number } = {},
  ) {
    this.pass = new TrainingPass(model, settings);
    this.teacher = options.teacher ?? model.weights;
    this.done = options.from ?? 0;
    const { guards, batch } = settings;
    this.parts = [{ streams, sequences: batch - (guards?.sequences ?? 0) }, ...(guards ? [guards] : [])];
  }

  private readonly teacher: ModelWeights;
  private readonly parts: readonly BatchPart[];

  get steps(): number {
    return this.settings.schedule.steps;
  }

  get finished(): boolean {
    return this.done >= this.steps;
  }

  /** Whether layers are recomputed in the backward pass. */
  get recomputes(): boolean {
    return this.pass.recomputes;
  }

  /** Native memory of activations, parameters and optimizer state. */
  get bytes(): number {
    return this.pass.bytes + this.learner.bytes;
  }

  /** Runs one step. Throws DivergenceError when a loss or gradient is not finite. */
  step(): StepReport {
    const started = performance.now();
    const { settings, learner } = this;
    const { ids, targets } = drawBatch(this.parts, settings.tokens, settings.seed, this.done);
    const shares = this.lossShares(settings.klWeight(this.done, this.steps));
    const bonus = learner.prepare(this.done, this.steps);
    if (shares.some(({ klWeight }) => klWeight > 0)) this.pass.teach(ids, this.teacher);
    const losses = this.pass.step(
      ids,
      targets,
      shares,
      (matrix) => learner.weight(matrix),
      (matrix, dw) => learner.accept(matrix, dw),
    );
    const loss = losses.loss - bonus;
    if (!Number.isFinite(loss)) throw new DivergenceError(this.done + 1, 'the loss');
    const learningRate = settings.learningRate * scheduleShare(settings.schedule, this.done);
    const gradientNorm = adamwStep(learner.parameters, settings.optimizer, learningRate, this.done + 1);
    this.done++;
    return { ...losses, loss, step: this.done, learningRate, gradientNorm, milliseconds: performance.now() - started };
  }

  /** Own sequences come first, then guards. */
  private lossShares(klWeight: number): LossShare[] {
    return this.parts.map(({ sequences }, part) => ({
      rows: sequences * this.settings.tokens,
      klWeight: part === 0 ? klWeight : 1,
    }));
  }

  dispose(): void {
    this.pass.dispose();
  }
}
