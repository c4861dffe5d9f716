/**
 * A model in this process, for what runs without a server. Imported by commands when they need it, because it loads the native
 * kernels, which the commands that only talk to a server do without.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { encodeMaskSet } from '../../codec/encode.js';
import type { MaskSet } from '../../codec/mask-set.js';
import { patternTable } from '../../codec/pattern.js';
import { native } from '../../kernels/index.js';
import { chooseBackend } from '../../server/engine/backend.js';
import { evaluate, tokenStream } from '../../server/engine/evaluate.js';
import { DEFAULT_KV_TYPE } from '../../server/engine/kv-cache.js';
import { loadModel, type Model } from '../../server/engine/model.js';
import { Random, shuffled } from '../../server/engine/random.js';
import type { EvaluateResult, TaskWeights } from '../../server/engine/types.js';
import { frozenWeights } from '../../server/store/frozen-weights.js';
import { createLoader } from '../../server/store/loader.js';
import { DENSE_TASK } from '../../server/store/task-name.js';
import { sampleWindows } from '../../server/trainer/calibrate.js';
import { readSource } from '../../server/trainer/corpus.js';
import { freeTask, maskedTask } from '../../server/trainer/masked-perplexity.js';
import { isTwoOfFour } from '../../server/trainer/n-of-m.js';
import { codesOfSet } from '../../server/trainer/nibbles.js';
import {
  oneShotMask,
  type OneShotMethod,
  type OneShotOptions as TrainerOneShotOptions,
} from '../../server/trainer/one-shot.js';
import { updatedStart } from '../../server/trainer/prepare-start.js';
import { writePreparedModel, type PreparedFiles } from '../../server/trainer/prepared-model.js';
import { checkMaskFile, type OpenOptions, readMaskSet } from './mask-file.js';
import { DEFAULT_MODEL } from './package-root.js';
import type { Progress } from './progress.js';
import { type TextOptions, WINDOW_TOKENS } from './text-options.js';

export interface OneShotOptions extends TextOptions {
  readonly method: OneShotMethod;
  readonly data: readonly string[];
  /** Calibration windows. */
  readonly samples: number;
  /** Tokens of a window. */
  readonly seq: number;
  readonly seed: number;
  readonly damp: number;
}

/** Digest of the written weights, content digest of their mask. */
export type UpdatedModel = Pick<PreparedFiles, 'base' | 'general'>;

export interface ScoreOptions extends TextOptions {
  /** Windows to score; undefined: as many as the text fills. */
  readonly windows?: number;
}

/** Times the tokens that calibration sees: enough for windows that seldom overlap. */
const TOKENS_TO_DRAW_FROM = 4;

/** On the chosen backend, where this thread's ops run from then on. Its caches are those of a server that nobody told otherwise, so that both give the same perplexity. */
export function openModel({ model, threads, backend }: TextOptions): Model {
  native.setThreads(threads ?? 0); // of the host, where some things are computed wherever ops run
  native.useBackend(chooseBackend(backend ?? 'cpu').name);
  const kvType = DEFAULT_KV_TYPE;
  return loadModel(model ?? DEFAULT_MODEL, threads === undefined ? { kvType } : { kvType, threads });
}

/** Prunes `model` as the options say. Returns the container's bytes. */
export function oneShotContainer(model: Model, options: OneShotOptions, progress: Progress): Uint8Array {
  const set = oneShotMask(model, oneShotSettings(model, options, progress));
  progress.update(0, 0, 'encoding');
  return encodeMaskSet(set, { context: { weights: frozenWeights(model.info.maskable) } });
}

/** Prunes `model` by SparseGPT as the options say, and writes what its weight update makes of it (MaskLLM's Table 4, SparseGPT-Update) to the directory `out`, with its general mask. */
export function updatedModel(model: Model, options: OneShotOptions, out: string, progress: Progress): UpdatedModel {
  const settings = oneShotSettings(model, options, progress);
  const { learner, mask } = updatedStart(model, (updated) =>
    codesOfSet(model, oneShotMask(model, { ...settings, updated })),
  );
  try {
    progress.update(0, 0, 'writing');
    const { data, samples, seq, seed, damp } = options;
    const recipe = { start: 'sparsegpt-update', sources: data, samples, seq, seed, damp };
    const files = writePreparedModel(out, model, learner.parameters, mask, recipe);
    try {
      files.publish();
    } finally {
      files.discard(); // what was published is not there any more
    }
    return { base: files.base, general: files.general };
  } finally {
    learner.dispose();
  }
}

function oneShotSettings(model: Model, options: OneShotOptions, progress: Progress): TrainerOneShotOptions {
  const { method, damp } = options;
  return {
    method,
    windows: method === 'magnitude' ? [] : calibrationWindows(model, options, progress),
    damp,
    onProgress: (done, of) => {
      if (done < of) progress.update(done, of, 'calibrating');
      else progress.update(0, 0, 'choosing masks');
    },
  };
}

/** Perplexity of `documents` under the weights of `task`. */
export function evaluateLocally(
  model: Model,
  task: LocalTask,
  documents: readonly string[],
  { windows, separator, bos }: ScoreOptions,
  progress: Progress,
): EvaluateResult {
  return evaluate(
    model,
    {
      documents,
      windowLength: WINDOW_TOKENS,
      bos,
      weights: task.weights,
      ...(windows === undefined ? {} : { windows }),
      ...(separator === undefined ? {} : { separator }),
    },
    ({ done, of }) => progress.update(done, of, `evaluating ${task.name}`),
  );
}

/** A task of this process. */
export interface LocalTask {
  readonly name: string;
  /** null: dense. */
  readonly weights: TaskWeights | null;
  dispose(): void;
}

/** Of a mask file for this model: its folders and weights; `parent`: a file to look at first. */
export function beside(model: Model, parent?: string): OpenOptions {
  const { directory, base, maskable } = model.info;
  const near = { model: directory, weights: frozenWeights(maskable), expectBase: base };
  return parent === undefined ? near : { ...near, parent };
}

/** `dense`, the mask file that is named (and its parent's), or the one that the model ships for `name`. Throws one line. */
export async function openTask(model: Model, name: string, file?: string, parent?: string): Promise<LocalTask> {
  if (file === undefined && name === DENSE_TASK) return { name, weights: null, dispose: () => undefined };
  const path = file ?? shippedMask(model.info.directory, name);
  const near = beside(model, parent);
  const { digest, summary, ancestors } = checkMaskFile(path, near);
  if (!isTwoOfFour(summary)) {
    const weights = maskedDenseTask(model, readMaskSet(path, near));
    return { name, weights, dispose: () => freeTask(weights) };
  }
  const loader = createLoader(model.info);
  try {
    const weights = await loader.load(digest, path, ancestors);
    return { name, weights, dispose: () => freeTask(weights) };
  } finally {
    await loader.close();
  }
}

function shippedMask(directory: string, task: string): string {
  const folder = join(directory, 'masks');
  const names = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.mask')) : [];
  if (names.includes(`${task}.mask`)) return join(folder, `${task}.mask`);
  const known = [DENSE_TASK, ...names.map((name) => name.slice(0, -'.mask'.length)).sort()].join(', ');
  throw new Error(`no task "${task}" comes with ${directory}: expected one of ${known}, or a file by --mask`);
}

function maskedDenseTask(model: Model, set: MaskSet): TaskWeights {
  const covered = new Map(set.masks.map(({ name, symbols }) => [name, symbols]));
  const masked = { ...model, weights: { ...model.weights, masked: new Set(covered.keys()) } };
  return maskedTask({ ...masked, pattern: patternTable(set.n, set.m) }, ({ name }) => covered.get(name) as Uint8Array);
}

/** `samples` windows of `seq` tokens, each drawn from one of the --data arguments, all alike. */
function calibrationWindows(model: Model, options: OneShotOptions, progress: Progress): Int32Array[] {
  const { data, separator, bos, samples, seq, seed } = options;
  // Tokenising is slow beside drawing windows: of a large corpus only documents drawn by the seed are read.
  const limit = Math.max(seq + 1, Math.ceil((TOKENS_TO_DRAW_FROM * samples * seq) / data.length));
  const random = new Random(seed);
  const streams = data.map((pattern, index) => {
    progress.update(index, data.length);
    const documents = shuffled(readSource(pattern).documents, random);
    return tokenStream(model, documents, { bos, limit, ...(separator === undefined ? {} : { separator }) });
  });
  return sampleWindows(streams, samples, seq, seed);
}
