/** What opens a run and closes it, whatever it learns: memory that is checked first, text, teacher, the loop of steps, and what a person is told before the first. */
import { native } from '../../kernels/index.js';
import type { Model } from '../engine/model.js';
import { matricesOf } from '../engine/weights.js';
import type { CheckpointOptions } from './checkpoint.js';
import { ACTIVATION_BYTES } from './defaults.js';
import { average } from './held-out.js';
import { maskedParameters, withDenseRest } from './kept-dense.js';
import type { Learner } from './learner.js';
import type { AdamWSettings, Schedule } from './optimizer.js';
import * as setup from './run-learner.js';
import { checkMemory } from './run-memory.js';
import type { Look, SaveOptions, StepsOptions } from './run-steps.js';
import { guardSequences, readRunText, type RunText, type TextRequest, type TextSettings } from './run-text.js';
import { ofRunItself, openTeacher, type Teacher, type TeacherChoice } from './teacher.js';
import { Training } from './training.js';
import type { TrainStarted } from './types.js';

export interface OpeningOptions {
  /** Whom KL is taken to; undefined: the dense model. */
  readonly teacher?: TeacherChoice;
  readonly signal?: AbortSignal;
  readonly checkpoint?: CheckpointOptions & Pick<SaveOptions, 'everySeconds'>;
  /** Activations that may be kept; above it layers are recomputed. Same numbers either way. */
  readonly activationBytes?: number;
  /** Of a GPU: the most that the run and its model may take there; undefined: what is free. */
  readonly deviceBytes?: number;
  /** What happens before the first step: the stage, and how far it is. */
  readonly onProgress?: (stage: string, done: number, of: number) => void;
}

/** What a request comes to. */
export interface RunPlan {
  readonly task: string;
  readonly text: TextRequest;
  readonly settings: TextSettings & Schedule & AdamWSettings & { readonly evaluateEvery: number };
  readonly learningRate: number;
  /** Of what is learned, for each weight under the mask. */
  readonly bytesPerWeight: number;
  /** Of what is gathered to find where it starts. */
  readonly startBytes: number;
  /** Loaded beside the student and its teacher. */
  readonly models: number;
}

/** What the steps need of a run. */
export interface RunHooks {
  readonly look: (step: number) => Look;
  readonly write: (step: number) => void;
}

interface Owned {
  dispose(): void;
}

export class OpenedRun {
  private readonly activationBytes: number;
  private readonly owned: Owned[] = [];

  /** Reads the text and opens the teacher. Throws one line when the machine can't hold the run (DeviceFull: its GPU), on text or teacher; TrainingStopped while a teacher is tuned. */
  static async open(model: Model, masked: Model, plan: RunPlan, options: OpeningOptions): Promise<OpenedRun> {
    const { settings, bytesPerWeight, startBytes, models } = plan;
    const { teacher: choice, activationBytes = ACTIVATION_BYTES, deviceBytes, onProgress } = options;
    const teachers = choice ? 1 + Number(choice.base !== undefined) : 0;
    const needs = { shape: settings, bytesPerWeight, startBytes, activationBytes, teachers, models };
    checkMemory(model, masked, needs, deviceBytes);
    const text = readRunText(model, plan.text, settings, (done, of) => onProgress?.('reading text', done, of));
    const { batch, seq, seed } = settings;
    const teacher = choice && (await openTeacher(model, choice, { ...options, text, batch, seq, seed }));
    return new OpenedRun(model, masked, plan, text, teacher, ofRunItself(options));
  }

  private constructor(
    private readonly model: Model,
    readonly masked: Model,
    private readonly plan: RunPlan,
    readonly text: RunText,
    readonly teacher: Teacher | undefined,
    readonly options: OpeningOptions,
  ) {
    this.activationBytes = options.activationBytes ?? ACTIVATION_BYTES;
    if (teacher) this.owned.push(teacher);
  }

  /** Frees `part` with the run: buffers outlive the thread. */
  own<T extends Owned>(part: T): T {
    this.owned.push(part);
    return part;
  }

  /** `from`: steps that an earlier run had done. `klWeight`: share of KL in the loss of step s (from 0). */
  training(learner: Learner, from: number, klWeight: (step: number) => number): Training {
    const { plan, text, teacher } = this;
    const { settings, learningRate } = plan;
    const guards = { streams: text.guardStreams, sequences: guardSequences(settings) };
    const training = new Training(
      this.model,
      withDenseRest(learner, matricesOf(this.masked.weights)),
      text.streams,
      {
        batch: settings.batch,
        tokens: settings.seq,
        activationBytes: this.activationBytes,
        schedule: setup.scheduleOf(settings),
        learningRate,
        optimizer: setup.optimizerOf(settings),
        klWeight,
        seed: settings.seed,
        ...(text.guardStreams.length > 0 ? { guards } : {}),
      },
      { from, ...(teacher ? { teacher: teacher.weights } : {}) },
    );
    return this.own(training);
  }

  started(learner: Learner, training: Training, from: number, startPerplexities: readonly number[]): TrainStarted {
    const { plan, text, teacher } = this;
    return {
      type: 'started',
      task: plan.task,
      steps: training.steps,
      resumedFrom: from,
      backend: native.info().backend,
      trainTokens: text.trainTokens,
      heldOutTokens: text.heldOutTokens,
      learningRate: plan.learningRate,
      priorPerplexity: this.ownAverage(startPerplexities),
      memory: {
        activationBytes: training.bytes - learner.bytes,
        learnerBytes: learner.bytes,
        bytesPerWeight: learner.bytes / maskedParameters(this.masked),
        recomputes: training.recomputes,
      },
      ...(teacher ? { teacher: { perplexity: teacher.perplexity, bytes: teacher.bytes } } : {}),
    };
  }

  steps(training: Training, from: number, { look, write }: RunHooks): StepsOptions {
    const { batch, seq, evaluateEvery } = this.plan.settings;
    const { checkpoint, signal } = this.options;
    return {
      training,
      from,
      tokensPerStep: batch * seq,
      guessing: Math.log(this.model.config.vocab),
      evaluateEvery,
      look,
      ...(checkpoint ? { save: { ...checkpoint, write } } : {}),
      ...(signal ? { signal } : {}),
    };
  }

  /** Of values for each held-out text, over the run's own sources. */
  ownAverage(values: readonly number[]): number {
    return average(values.filter((_, i) => this.text.heldOut[i]?.guard === false));
  }

  dispose(): void {
    for (const part of this.owned.splice(0).reverse()) part.dispose();
  }
}
