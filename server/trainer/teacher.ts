/**
 * The model that KL is taken to, where it is not the dense one itself: a fine-tuned Hugging Face directory, a PEFT LoRA folder merged over the model that it was made for, or an
 * adapter that is tuned on the run's own text first. Same shape and tokenizer as the student, or refused.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { native } from '../../kernels/index.js';
import { Forward } from '../engine/llama.js';
import { readModelConfig, type ModelConfig } from '../engine/model-config.js';
import { loadModel, type Model } from '../engine/model.js';
import type { ModelWeights } from '../engine/weights.js';
import type { CheckpointOptions } from './checkpoint.js';
import { average, perplexities } from './held-out.js';
import { mergedWeights, type LoraAdapter } from './lora-merge.js';
import { ADAPTER_CONFIG, loraDigest, readLora, readLoraConfig, writeLora } from './lora-peft.js';
import type { RunText } from './run-text.js';
import { afterTuning, tuneAdapter, type TuneOptions, type TuneSettings } from './teacher-tune.js';

export interface GivenTeacher {
  readonly kind: 'given';
  /** A Hugging Face directory, or a PEFT folder. */
  readonly directory: string;
  /** The model that an adapter was made for; the student's dense one unless given. */
  readonly base?: string;
}

export interface TunedTeacher extends Pick<TuneSettings, 'rank' | 'steps' | 'learningRate'> {
  readonly kind: 'tuned';
  /** The model that is tuned; the student's dense one unless given. */
  readonly base?: string;
  /** Where the adapter is written as a PEFT folder. */
  readonly save?: string;
}

export type TeacherChoice = GivenTeacher | TunedTeacher;

export interface Teacher {
  readonly weights: ModelWeights;
  /** Native memory beside the student's, measured; mapped files take none. */
  readonly bytes: number;
  /** What a resumed run must find again. */
  readonly identity: string;
  /** Average held-out perplexity of the run's own sources. */
  readonly perplexity: number;
  dispose(): void;
}

/** Of the run that is taught. */
export interface TaughtRun extends TuneOptions {
  readonly text: RunText;
  readonly batch: number;
  readonly seq: number;
  readonly seed: number;
}

/** The numbers that the pass runs both models by. */
const SHAPE: readonly (keyof ModelConfig)[] = [
  ...(['layers', 'hidden', 'ffn', 'heads', 'kvHeads', 'headDim', 'vocab'] as const),
  ...(['normEps', 'rope', 'qkNorm', 'bias', 'windows'] as const),
];

/**
 * What can be refused before any text is read. `used`: whether the run has a KL part. Throws one line on a directory that is none, a model of another shape, an adapter that
 * can't be merged, and an adapter for a prepared base whose original is not named.
 */
export function checkTeacher(model: Model, choice: TeacherChoice, used: boolean): void {
  if (!used) throw new Error('expected --loss kl or mix beside a teacher: the LM loss alone does not ask it');
  if (choice.base !== undefined) checkShape(model, choice.base, '--teacher-base');
  if (choice.kind === 'tuned') return checkBaseNamed(model, choice);
  const { directory } = choice;
  if (isAdapter(directory)) {
    readLoraConfig(directory);
    return checkBaseNamed(model, choice);
  }
  if (choice.base !== undefined) {
    throw new Error(
      `expected a PEFT folder as --teacher beside --teacher-base, but ${directory} has no ${ADAPTER_CONFIG}`,
    );
  }
  checkShape(model, directory, '--teacher');
}

/** Loads, merges or tunes a teacher that `checkTeacher` let pass. Throws one line, or TrainingStopped while it is tuned. Dispose it before the model. */
export async function openTeacher(model: Model, choice: TeacherChoice, run: TaughtRun): Promise<Teacher> {
  const owned: { dispose(): void }[] = [];
  const dispose = (): void => owned.reverse().forEach((part) => part.dispose());
  const { bytes } = native.usage();
  try {
    const { weights, identity, untuned } = await weightsOf(model, choice, run, owned);
    run.onProgress?.('scoring the teacher', 0, 0);
    const perplexity = ownPerplexity(model, weights, run);
    if (untuned) refuseWorse(perplexity, ownPerplexity(model, untuned, run));
    return { weights, identity, perplexity, bytes: native.usage().bytes - bytes, dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** A run's options after its teacher is there. One that was stopped while its teacher was tuned has no state of its own to resume yet. */
export function ofRunItself<T extends { readonly teacher?: TeacherChoice; readonly checkpoint?: CheckpointOptions }>(
  options: T,
): T {
  const { teacher, checkpoint } = options;
  return teacher?.kind === 'tuned' && checkpoint ? { ...options, checkpoint: afterTuning(checkpoint) } : options;
}

function isAdapter(directory: string): boolean {
  return existsSync(join(directory, ADAPTER_CONFIG));
}

/** An adapter belongs to the model it was trained on, and a prepared base is not its original. */
function checkBaseNamed({ info }: Model, { base }: TeacherChoice): void {
  if (base !== undefined) return;
  const file = join(info.directory, 'maskserve.json');
  if (!existsSync(file)) return;
  const { preparedFrom } = JSON.parse(readFileSync(file, 'utf8')) as { preparedFrom?: { name?: unknown } };
  const original = typeof preparedFrom?.name === 'string' ? ` (${preparedFrom.name})` : '';
  throw new Error(
    `expected --teacher-base DIR, the model that the teacher's adapter is for: ${info.directory} is a prepared base, and adapters belong to its original${original}`,
  );
}

/** Throws naming the first number in which the model in `directory` differs. */
function checkShape(model: Model, directory: string, option: string): void {
  if (!existsSync(directory)) {
    throw new Error(`expected a model directory or a PEFT folder at ${directory}, but there is none; check ${option}`);
  }
  const config = readModelConfig(directory);
  for (const field of SHAPE) {
    const [expected, came] = [JSON.stringify(model.config[field]), JSON.stringify(config[field])];
    if (expected === came) continue;
    throw new Error(
      `expected a teacher of the student's shape, with ${field} ${expected}, but ${directory} has ${came}; check ${option}`,
    );
  }
}

/** Loads a model with the student's tokens. */
function loadLike(model: Model, directory: string): Model {
  const teacher = loadModel(directory, { threads: native.info().threads });
  try {
    checkTokens(model, teacher);
    return teacher;
  } catch (error) {
    teacher.dispose();
    throw error;
  }
}

function checkTokens(model: Model, teacher: Model): void {
  if (!teacher.tokenizer) {
    throw new Error(
      `expected a tokenizer.json in ${teacher.info.directory}, to see that the teacher reads the student's tokens; copy the one it was tuned with`,
    );
  }
  for (let id = 0; id < model.config.vocab; id++) {
    const [expected, came] = [model.tokenizer?.label(id), teacher.tokenizer.label(id)];
    if (expected === came) continue;
    throw new Error(
      `expected a teacher with the student's tokenizer, whose token ${id} is ${JSON.stringify(expected)}, but in ${teacher.info.directory} it is ${JSON.stringify(came)}`,
    );
  }
}

/** What is loaded or merged goes to `owned`. `untuned`: what a tuned teacher was before. */
async function weightsOf(
  model: Model,
  choice: TeacherChoice,
  run: TaughtRun,
  owned: { dispose(): void }[],
): Promise<Pick<Teacher, 'weights' | 'identity'> & { readonly untuned?: ModelWeights }> {
  run.onProgress?.('reading the teacher', 0, 0);
  const load = (directory: string): Model => {
    const loaded = loadLike(model, directory);
    owned.push(loaded);
    return loaded;
  };
  if (choice.kind === 'given' && !isAdapter(choice.directory)) {
    const { weights, info } = load(choice.directory);
    return { weights, identity: `model ${info.base}` };
  }
  const base = choice.base === undefined ? model : load(choice.base);
  const { adapter, identity } = await adapterOf(base, choice, run);
  const merged = mergedWeights(base.weights, adapter);
  owned.push(merged);
  const { weights } = merged;
  const from = choice.kind === 'tuned' ? { untuned: base.weights } : {};
  return { weights, identity: `${identity} on ${base.info.base}`, ...from };
}

async function adapterOf(
  base: Model,
  choice: TeacherChoice,
  run: TaughtRun,
): Promise<{ readonly adapter: LoraAdapter; readonly identity: string }> {
  if (choice.kind === 'given') {
    const { directory } = choice;
    return { adapter: readLora(directory, base.weights), identity: `adapter ${loraDigest(directory)}` };
  }
  const { rank, steps, learningRate, save } = choice;
  const { batch, seq, seed, text } = run;
  const adapter = await tuneAdapter(base, text, { rank, steps, learningRate, batch, seq, seed }, run);
  if (save !== undefined) writeLora(save, adapter, base.info.directory);
  return { adapter, identity: `tuned, rank ${rank}, ${steps} steps at ${learningRate}` };
}

/** Of weights of the student's shape, average of the run's own sources. */
function ownPerplexity(model: Model, weights: ModelWeights, { text, seq }: TaughtRun): number {
  const forward = new Forward(model.config, weights, seq);
  try {
    const own = text.heldOut.filter(({ guard }) => !guard);
    return average(perplexities({ ...model, weights, forward }, own, seq, null));
  } finally {
    forward.dispose();
  }
}

/** A teacher that was tuned to be worse than it was has nothing to teach. */
function refuseWorse(tuned: number, untuned: number): void {
  if (tuned <= untuned) return;
  throw new Error(
    `the tuned teacher is worse on held-out text than the model it was tuned from (perplexity ${tuned.toFixed(2)} against ${untuned.toFixed(2)}): lower --teacher-lr, use more text, or distil from the dense model without --tune-teacher`,
  );
}
