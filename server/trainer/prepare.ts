/**
 * Preparing a base (design §10): its mask is fixed, the kept weights are tuned so that the masked model is as good as it can be, and the result is a model directory like any other, frozen from then
 * on. With a given mask on the original weights this is sparse fine-tuning (MaskLLM's Table 3, last row); with no steps it is SparseGPT's weight update (Table 4).
 */
import { contentDigest } from '../../codec/content-digest.js';
import type { MaskSet } from '../../codec/mask-set.js';
import { native, type Handle } from '../../kernels/index.js';
import { loadModel, type Model } from '../engine/model.js';
import { matricesOf } from '../engine/weights.js';
import { Checkpoint, openSaved, type CheckpointOptions, type RunIdentity } from './checkpoint.js';
import { ACTIVATION_BYTES } from './defaults.js';
import { average, perplexities } from './held-out.js';
import { maskedLayersOf, maskedParameters, withDenseRest } from './kept-dense.js';
import { KEPT_WEIGHTS_BYTES_PER_WEIGHT, KeptWeights } from './kept-weights.js';
import { hasKl, klWeightAt, totalSteps } from './loss-schedule.js';
import { byMatrix, codesOfSet, type NibblesByName } from './nibbles.js';
import { originalStart, sparseGptStart, type Start } from './prepare-start.js';
import type { PreparedRow, PrepareEvent, PrepareFinished, PrepareRequest } from './prepare-types.js';
import { GENERAL_TASK, writePreparedModel, type PreparedFiles } from './prepared-model.js';
import { refinedStart } from './refined-start.js';
import * as setup from './run-learner.js';
import { runSteps, type StepsOptions } from './run-steps.js';
import { readRunText, type HeldOutText, type RunText } from './run-text.js';
import {
  checkTeacher,
  ofRunItself,
  openTeacher,
  TEACHER_BYTES_PER_WEIGHT,
  type Teacher,
  type TeacherChoice,
} from './teacher.js';
import { Training } from './training.js';
import type { TrainStarted } from './types.js';

export interface PrepareOptions {
  /** Directory that is made; an empty one may be there. */
  readonly out: string;
  /** Keep this mask and start from the original weights; without it SparseGPT chooses mask and start. */
  readonly mask?: MaskSet;
  /** Whom KL is taken to; undefined: the original. */
  readonly teacher?: TeacherChoice;
  readonly signal?: AbortSignal;
  readonly checkpoint?: CheckpointOptions;
  readonly activationBytes?: number;
  readonly onProgress?: (stage: string, done: number, of: number) => void;
}

/**
 * Prepares `model` into `options.out`, which appears whole or not at all. Yields `started`, a `step` each, `finished`. The checkpoint stays: whoever is content removes it. Throws
 * TrainingStopped when the signal is aborted, DivergenceError, or one line about text, options, checkpoint or disk.
 */
export async function* runPrepare(
  model: Model,
  request: PrepareRequest,
  options: PrepareOptions,
): AsyncGenerator<PrepareEvent, void, undefined> {
  const began = performance.now();
  const { settings } = request;
  if (request.sources.length === 0) throw new Error('expected text to train on; give --data');
  if (options.mask && (settings.refine ?? 0) > 0) {
    throw new Error("expected --refine without --mask: it refines SparseGPT's mask, not one that is given");
  }
  const masked = maskedLayersOf(model, settings.keepDense);
  const activationBytes = options.activationBytes ?? ACTIVATION_BYTES;
  const { teacher: choice } = options;
  if (choice) checkTeacher(model, choice, hasKl(settings.phases));
  const teacherBytes = choice ? TEACHER_BYTES_PER_WEIGHT : 0;
  setup.checkMemory(masked, settings, KEPT_WEIGHTS_BYTES_PER_WEIGHT + teacherBytes, activationBytes);
  const text = readRunText(
    model,
    { sources: request.sources, guards: request.heldOut },
    { ...settings, steps: totalSteps(settings.phases) },
    (done, of) => options.onProgress?.('reading text', done, of),
  );
  const { batch, seq, seed } = settings;
  const teacher = choice && (await openTeacher(model, choice, { ...options, text, batch, seq, seed }));
  let run: PrepareRun | undefined;
  try {
    run = PrepareRun.open(model, masked, request, ofRunItself(options), text, teacher);
    yield run.started();
    yield* runSteps(run.steps());
    yield { ...run.finish(), seconds: (performance.now() - began) / 1000 };
  } finally {
    run?.dispose();
    teacher?.dispose();
  }
}

/** Everything that a run holds in memory. */
class PrepareRun {
  private readonly learner: KeptWeights;
  private readonly mask: NibblesByName;
  private readonly training: Training;
  private readonly startPerplexities: readonly number[];
  private readonly checkpoint: Checkpoint | undefined;
  private readonly from: number;
  /** (rows, cols) bf16 of the largest matrix: weights on their way to a look. */
  private readonly rounded: Handle;

  /** Frees what it had allocated when something is refused on the way: buffers outlive the thread. */
  static open(...args: [Model, Model, PrepareRequest, PrepareOptions, RunText, Teacher | undefined]): PrepareRun {
    const owned: { dispose(): void }[] = [];
    try {
      return new PrepareRun(owned, ...args);
    } catch (error) {
      for (const part of owned) part.dispose();
      throw error;
    }
  }

  private constructor(
    private readonly owned: { dispose(): void }[],
    private readonly model: Model,
    private readonly masked: Model,
    private readonly request: PrepareRequest,
    private readonly options: PrepareOptions,
    private readonly text: RunText,
    private readonly teacher: Teacher | undefined,
  ) {
    const { settings } = request;
    const matrices = matricesOf(masked.weights);
    this.checkpoint = options.checkpoint && new Checkpoint(options.checkpoint.directory, this.identity());
    let scored: readonly number[] | undefined;
    const saved = openSaved(this.checkpoint, options.checkpoint);
    try {
      const names = matrices.map(({ name }) => name);
      const start = saved ? originalStart(masked, saved.start(names)) : this.start();
      [this.learner, this.mask] = [start.learner, start.mask];
      owned.push(this.learner);
      saved?.restore(this.learner.parameters);
      this.from = saved?.step ?? 0;
      scored = saved?.startPerplexities;
    } finally {
      saved?.close();
    }
    const rounded = native.alloc(2 * Math.max(...this.learner.parameters.map(({ count }) => count)));
    this.rounded = rounded;
    owned.push({ dispose: () => native.free(rounded) });
    this.training = new Training(
      model,
      withDenseRest(this.learner, matrices),
      text.streams,
      {
        batch: settings.batch,
        tokens: settings.seq,
        activationBytes: options.activationBytes ?? ACTIVATION_BYTES,
        schedule: setup.scheduleOf({ ...settings, steps: totalSteps(settings.phases) }),
        learningRate: settings.learningRate,
        optimizer: setup.optimizerOf(settings),
        klWeight: (step) => klWeightAt(settings.phases, step),
        seed: settings.seed,
      },
      { from: this.from, ...(teacher ? { teacher: teacher.weights } : {}) },
    );
    owned.push(this.training);
    options.onProgress?.('scoring the start', 0, 0);
    this.startPerplexities = scored ?? this.perplexities(text.heldOut);
  }

  started(): TrainStarted {
    const { learner, training, text, from, request, options, teacher } = this;
    return {
      type: 'started',
      task: GENERAL_TASK,
      steps: training.steps,
      resumedFrom: from,
      trainTokens: text.trainTokens,
      heldOutTokens: text.heldOutTokens,
      learningRate: request.settings.learningRate,
      priorPerplexity: this.ownAverage(this.startPerplexities),
      memory: {
        activationBytes: training.bytes - learner.bytes,
        learnerBytes: learner.bytes,
        bytesPerWeight: learner.bytes / maskedParameters(this.masked),
        recomputes: setup.recomputes(this.model, request.settings, options.activationBytes ?? ACTIVATION_BYTES),
      },
      ...(teacher ? { teacher: { perplexity: teacher.perplexity, bytes: teacher.bytes } } : {}),
    };
  }

  steps(): StepsOptions {
    const { checkpoint, options, training, from, learner, mask, startPerplexities } = this;
    const { batch, seq, evaluateEvery } = this.request.settings;
    const { parameters } = learner;
    const write = (step: number): void => checkpoint?.save({ step, parameters, start: mask, startPerplexities });
    const own = this.text.heldOut.filter(({ guard }) => !guard);
    return {
      training,
      from,
      tokensPerStep: batch * seq,
      guessing: Math.log(this.model.config.vocab),
      evaluateEvery,
      look: () => ({ heldOutPerplexity: average(this.perplexities(own)) }),
      ...(options.checkpoint
        ? { save: { every: options.checkpoint.every, directory: options.checkpoint.directory, write } }
        : {}),
      ...(options.signal ? { signal: options.signal } : {}),
    };
  }

  /** Writes the new model, scores it as it lies on disk, and publishes it unless it is worse than its start. */
  finish(): Omit<PrepareFinished, 'seconds'> {
    const { request, options, masked, learner, mask } = this;
    options.onProgress?.('writing', 0, 0);
    const files = writePreparedModel(options.out, masked, learner.parameters, mask, this.recipe());
    try {
      const heldOut = this.rows(files);
      const [prepared, start] = [heldOut.map((row) => row.prepared), heldOut.map((row) => row.start)];
      const publishable = request.force || this.ownAverage(prepared) <= this.ownAverage(start);
      if (publishable) files.publish();
      return { type: 'finished', heldOut, base: files.base, general: files.general, publishable };
    } finally {
      files.discard(); // what was published is not there any more
    }
  }

  dispose(): void {
    for (const part of this.owned) part.dispose();
  }

  private start(): Start {
    const { masked, options, text, request } = this;
    if (options.mask) return originalStart(masked, codesOfSet(masked, options.mask));
    const { seq, seed, refine = 0 } = request.settings;
    const calibrating = { streams: text.streams, seq, seed, refine };
    if (refine > 0) return refinedStart(this.model, masked, calibrating, options.onProgress);
    return sparseGptStart(this.model, masked, calibrating, (done, of) => options.onProgress?.('sparsegpt', done, of));
  }

  /** Under the mask and the weights as they stand. */
  private perplexities(texts: readonly HeldOutText[]): number[] {
    const parameters = new Map(this.learner.parameters.map((parameter) => [parameter.name, parameter]));
    return perplexities(this.masked, texts, this.request.settings.seq, byMatrix(this.mask), ({ name }) => {
      const { values = this.rounded, count = 0 } = parameters.get(name) ?? {};
      native.toBf16(this.rounded, values, 'f32', count);
      return this.rounded;
    });
  }

  private rows(files: PreparedFiles): PreparedRow[] {
    const { text, masked, request, startPerplexities } = this;
    const { seq, keepDense } = request.settings;
    const dense = perplexities(masked, text.heldOut, seq, null);
    const written = loadModel(files.directory, { threads: native.info().threads });
    try {
      const prepared = perplexities(maskedLayersOf(written, keepDense), text.heldOut, seq, byMatrix(this.mask));
      const unmasked = perplexities(written, text.heldOut, seq, null);
      return text.heldOut.map(({ source, guard }, i) => ({
        source,
        guard,
        dense: dense[i] as number,
        start: startPerplexities[i] as number,
        prepared: prepared[i] as number,
        unmasked: unmasked[i] as number,
      }));
    } finally {
      written.dispose();
    }
  }

  /** How the base came about, for maskserve.json. */
  private recipe(): object {
    const { request, text } = this;
    return {
      start: this.startName(),
      settings: request.settings,
      ...(this.teacher ? { teacher: this.teacher.identity } : {}),
      sources: request.sources.map(({ name }) => name),
      trainTokens: text.trainTokens,
      text: text.digest,
    };
  }

  private startName(): unknown {
    if (this.options.mask) return { mask: contentDigest(this.options.mask) };
    return (this.request.settings.refine ?? 0) > 0 ? 'sparsegpt-refined-update' : 'sparsegpt-update';
  }

  /** What decides every number of the run. */
  private identity(): RunIdentity {
    const { mask } = this.options;
    return {
      kind: 'weights',
      base: this.model.info.base,
      mask: mask ? contentDigest(mask) : null,
      ...(this.teacher ? { teacher: this.teacher.identity } : {}),
      settings: {
        ...this.request.settings,
        phases: this.request.settings.phases.map(({ klWeight, steps }) => `${klWeight}:${steps}`),
      },
      text: this.text.digest,
    };
  }

  private ownAverage(values: readonly number[]): number {
    return average(values.filter((_, i) => this.text.heldOut[i]?.guard === false));
  }
}
