/**
 * A teacher out of the run's own text: a low-rank adapter of all matrices of the dense model, trained with the LM loss. SmolLM2 goes from 26.57 to 12.87 on french in 60 steps
 * of it. Its state lies beside the run's, so that a run that was stopped meets the same teacher again, bit for bit.
 */
import type { Model } from '../engine/model.js';
import { Checkpoint, openSaved, teacherDirectory, type CheckpointOptions, type SavedRun } from './checkpoint.js';
import { ACTIVATION_BYTES } from './defaults.js';
import { Lora } from './lora.js';
import type { LoraAdapter } from './lora-merge.js';
import { runSteps, TrainingStopped, type SaveOptions } from './run-steps.js';
import type { RunText } from './run-text.js';
import { Training, type TrainingSettings } from './training.js';

export interface TuneSettings {
  readonly rank: number;
  readonly steps: number;
  /** Peak; linear warm-up, cosine to a tenth. */
  readonly learningRate: number;
  readonly batch: number;
  readonly seq: number;
  readonly seed: number;
}

export interface TuneOptions {
  /** Of the run that is taught. */
  readonly checkpoint?: CheckpointOptions & Pick<SaveOptions, 'everySeconds'>;
  readonly signal?: AbortSignal;
  readonly activationBytes?: number;
  readonly onProgress?: (stage: string, done: number, of: number) => void;
}

/** What `onProgress` calls it. A signal that comes meanwhile stops it with its state saved. */
export const TUNING_STAGE = 'tuning the teacher';

/** What nobody is asked, as the yardstick has it (adapt_torch.py). */
const SCALING = 2;
const WARMUP = 10;
const FLOOR = 0.1;
const OPTIMIZER = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0, clip: 1 } as const;
/** Steps between two checkpoints: an adapter is small. */
const SAVE_EVERY = 10;

/** Trains the adapter, or what is left of it. Throws TrainingStopped when the signal is aborted, DivergenceError, or one line on a checkpoint that does not fit. */
export async function tuneAdapter(
  model: Model,
  text: RunText,
  settings: TuneSettings,
  options: TuneOptions = {},
): Promise<LoraAdapter> {
  const checkpoint = stateOf(model, text, settings, options.checkpoint);
  const { rank, seed } = settings;
  const lora = new Lora(model.weights, { rank, scaling: SCALING, seed });
  try {
    const from = restore(lora, openState(checkpoint, options.checkpoint));
    const training = new Training(model, lora, text.streams, trainingSettings(settings, options), { from });
    try {
      await runAll(training, model, lora, settings, from, checkpoint, options);
    } finally {
      training.dispose();
    }
    return lora.adapter();
  } catch (error) {
    if (error instanceof TrainingStopped) {
      throw new TrainingStopped(error.step, error.steps, error.directory, "the teacher's tuning");
    }
    if (!(error instanceof Error) || !error.message.startsWith('training diverged')) throw error;
    throw new Error(
      `the teacher diverged while it was tuned at a peak rate of ${settings.learningRate}; lower --teacher-lr`,
      { cause: error },
    );
  } finally {
    lora.dispose();
  }
}

/** What is left for the run itself to resume: nothing yet, if it was stopped while its teacher was tuned. */
export function afterTuning<T extends CheckpointOptions>(options: T): T {
  const begun = new Checkpoint(options.directory, {}).exists;
  return { ...options, resume: options.resume && begun };
}

function stateOf(
  model: Model,
  text: RunText,
  settings: TuneSettings,
  options: CheckpointOptions | undefined,
): Checkpoint | undefined {
  const identity = { kind: 'teacher', base: model.info.base, settings, text: text.digest };
  return options && new Checkpoint(teacherDirectory(options.directory), identity);
}

function openState(state: Checkpoint | undefined, options: CheckpointOptions | undefined): SavedRun | undefined {
  if (!state || !options) return undefined;
  const begun = new Checkpoint(options.directory, {}).exists;
  if (options.resume && begun && !state.exists) {
    throw new Error(
      `can't resume from ${options.directory}: that run had no --tune-teacher; give the same options, or start anew with another --checkpoint directory`,
    );
  }
  if (!options.resume && begun) openSaved(new Checkpoint(options.directory, {}), options); // says whose state lies there
  if (!options.resume && state.exists) {
    throw new Error(
      `${options.directory} holds the state of an earlier run: go on with it by --resume ${options.directory}, or delete it to start anew`,
    );
  }
  return options.resume ? state.resume() : undefined;
}

/** Steps that are done. */
function restore({ parameters }: Lora, saved: SavedRun | undefined): number {
  try {
    saved?.restore(parameters);
    return saved?.step ?? 0;
  } finally {
    saved?.close();
  }
}

function trainingSettings(settings: TuneSettings, { activationBytes }: TuneOptions): TrainingSettings {
  const { batch, seq, steps, learningRate, seed } = settings;
  return {
    batch,
    tokens: seq,
    activationBytes: activationBytes ?? ACTIVATION_BYTES,
    schedule: { steps, warmup: WARMUP, floor: FLOOR },
    learningRate,
    optimizer: OPTIMIZER,
    klWeight: () => 0,
    seed,
  };
}

async function runAll(
  training: Training,
  model: Model,
  { parameters }: Lora,
  { batch, seq }: TuneSettings,
  from: number,
  checkpoint: Checkpoint | undefined,
  { checkpoint: run, signal, onProgress }: TuneOptions,
): Promise<void> {
  const save = checkpoint &&
    run && {
      every: SAVE_EVERY,
      ...(run.everySeconds === undefined ? {} : { everySeconds: run.everySeconds }),
      directory: run.directory,
      write: (step: number) => checkpoint.save({ step, parameters, start: new Map() }),
    };
  const steps = runSteps({
    training,
    from,
    tokensPerStep: batch * seq,
    guessing: Math.log(model.config.vocab),
    evaluateEvery: 0,
    look: () => ({}),
    ...(save ? { save } : {}),
    ...(signal ? { signal } : {}),
  });
  for await (const { step, steps: of } of steps) onProgress?.(TUNING_STAGE, step, of);
}
