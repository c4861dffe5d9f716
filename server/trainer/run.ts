/**
 * A mask from text, start to end: split the text, find where the mask starts, learn, look at held-out text on the way, and hand back the best mask seen. Drives one step at a
 * time, so that whoever iterates can report, cancel and serve in between; everything native happens in the calling thread.
 */
import { contentDigest } from '../../codec/content-digest.js';
import type { MaskSet } from '../../codec/mask-set.js';
import type { Model } from '../engine/model.js';
import { matricesOf } from '../engine/weights.js';
import { Checkpoint, openSaved, type BestMask, type CheckpointOptions, type RunIdentity } from './checkpoint.js';
import { ACTIVATION_BYTES } from './defaults.js';
import { average, distance, MaskLooks, perplexities } from './held-out.js';
import { maskedLayersOf, maskedParameters, withDenseRest } from './kept-dense.js';
import type { Learner } from './learner.js';
import { byMatrix, gatherCodes, maskSetOf, codesOfSet, type CodesByName } from './nibbles.js';
import { bitsPerParameter, changedShare } from './rate.js';
import { patternNamed, patternOf, type MaskedModel } from './n-of-m.js';
import * as setup from './run-learner.js';
import { oneShotPrior } from './run-prior.js';
import { runSteps, type SaveOptions, type StepsOptions } from './run-steps.js';
import { guardSequences, readRunText, type RunText } from './run-text.js';
import {
  checkTeacher,
  ofRunItself,
  openTeacher,
  TEACHER_BYTES_PER_WEIGHT,
  type Teacher,
  type TeacherChoice,
} from './teacher.js';
import { Training } from './training.js';
import type { HeldOutRow, TrainEvent, TrainFinished, TrainRequest, TrainStarted } from './types.js';

export interface RunOptions {
  /** The mask of `request.from`. */
  readonly parent?: MaskSet;
  /** Whom KL is taken to; undefined: the dense model. */
  readonly teacher?: TeacherChoice;
  readonly signal?: AbortSignal;
  readonly checkpoint?: CheckpointOptions & Pick<SaveOptions, 'everySeconds'>;
  /** Activations that may be kept; above it layers are recomputed. Same numbers either way. */
  readonly activationBytes?: number;
  /** What happens before the first step: the stage, and how far it is. */
  readonly onProgress?: (stage: string, done: number, of: number) => void;
}

/**
 * Runs a request. Yields `started`, a `step` each, `finished`; returns the mask set, whose parent is the content digest of the set that it was transferred from. The checkpoint stays:
 * whoever has stored the mask removes it. Throws TrainingStopped when the signal is aborted, DivergenceError, or one line about text, options or checkpoint.
 */
export async function* runTraining(
  model: Model,
  request: TrainRequest,
  options: RunOptions = {},
): AsyncGenerator<TrainEvent, MaskSet, undefined> {
  const began = performance.now();
  checkRequest(model, request, options);
  const masked = maskedLayersOf(model, request.settings.keepDense, patternNamed(request.settings.pattern));
  const activationBytes = options.activationBytes ?? ACTIVATION_BYTES;
  const teacherBytes = options.teacher ? TEACHER_BYTES_PER_WEIGHT : 0;
  const bytesPerWeight = setup.learnerBytesPerWeight(request.settings) + teacherBytes;
  setup.checkMemory(masked, request.settings, bytesPerWeight, activationBytes);
  const text = readRunText(model, request, request.settings, (done, of) =>
    options.onProgress?.('reading text', done, of),
  );
  const { batch, seq, seed } = request.settings;
  const teacher =
    options.teacher && (await openTeacher(model, options.teacher, { ...options, text, batch, seq, seed }));
  let run: MaskRun | undefined;
  try {
    run = MaskRun.open(model, masked, request, ofRunItself(options), text, teacher);
    yield run.started();
    yield* runSteps(run.steps());
    const { best, ...finished } = run.finish();
    yield { ...finished, seconds: (performance.now() - began) / 1000 };
    return maskSetOf(masked, best.nibbles, model.info.base, options.parent);
  } finally {
    run?.dispose();
    teacher?.dispose();
  }
}

/** Everything that a run holds in memory. */
class MaskRun {
  private readonly learner: Learner;
  private readonly training: Training;
  private readonly looks: MaskLooks;
  private readonly start: CodesByName;
  private readonly priorPerplexities: readonly number[];
  private readonly checkpoint: Checkpoint | undefined;
  private readonly from: number;
  private readonly learningRate: number;

  /** Frees what it had allocated when something is refused on the way: buffers outlive the thread. */
  static open(...args: [Model, MaskedModel, TrainRequest, RunOptions, RunText, Teacher | undefined]): MaskRun {
    const owned: { dispose(): void }[] = [];
    try {
      return new MaskRun(owned, ...args);
    } catch (error) {
      for (const part of owned) part.dispose();
      throw error;
    }
  }

  private constructor(
    private readonly owned: { dispose(): void }[],
    private readonly model: Model,
    private readonly masked: MaskedModel,
    private readonly request: TrainRequest,
    private readonly options: RunOptions,
    private readonly text: RunText,
    private readonly teacher: Teacher | undefined,
  ) {
    const { settings } = request;
    this.checkpoint = options.checkpoint && new Checkpoint(options.checkpoint.directory, this.identity());
    let scored: readonly number[] | undefined;
    const saved = openSaved(this.checkpoint, options.checkpoint);
    try {
      const names = matricesOf(masked.weights).map(({ name }) => name);
      const prior = saved ? saved.start(names) : this.prior();
      this.learner = setup.createLearner(
        masked,
        settings.prior === 'none' && !options.parent ? undefined : prior,
        settings,
      );
      owned.push(this.learner);
      saved?.restore(this.learner.parameters);
      this.start = prior ?? gatherCodes(masked, (matrix) => this.learner.nibbles(matrix));
      this.looks = new MaskLooks(masked, text.heldOut, settings.seq, this.start, saved?.best(names));
      this.from = saved?.step ?? 0;
      scored = saved?.startPerplexities;
    } finally {
      saved?.close();
    }
    this.learningRate = setup.peakLearningRate(settings);
    this.training = new Training(
      model,
      withDenseRest(this.learner, matricesOf(masked.weights)),
      text.streams,
      {
        batch: settings.batch,
        tokens: settings.seq,
        activationBytes: options.activationBytes ?? ACTIVATION_BYTES,
        schedule: setup.scheduleOf(settings),
        learningRate: this.learningRate,
        optimizer: setup.optimizerOf(settings),
        klWeight: setup.klWeightOf(settings),
        seed: settings.seed,
        ...(text.guardStreams.length > 0
          ? { guards: { streams: text.guardStreams, sequences: guardSequences(settings) } }
          : {}),
      },
      { from: this.from, ...(teacher ? { teacher: teacher.weights } : {}) },
    );
    owned.push(this.training);
    this.priorPerplexities = scored ?? this.scorePrior();
  }

  started(): TrainStarted {
    const { settings, task } = this.request;
    const { learner, training, text, from, teacher } = this;
    return {
      type: 'started',
      task,
      steps: settings.steps,
      resumedFrom: from,
      trainTokens: text.trainTokens,
      heldOutTokens: text.heldOutTokens,
      learningRate: this.learningRate,
      priorPerplexity: average(this.ownOf(this.priorPerplexities)),
      memory: {
        activationBytes: training.bytes - learner.bytes,
        learnerBytes: learner.bytes,
        bytesPerWeight: learner.bytes / maskedParameters(this.masked),
        recomputes: setup.recomputes(this.model, settings, this.options.activationBytes ?? ACTIVATION_BYTES),
      },
      ...(teacher ? { teacher: { perplexity: teacher.perplexity, bytes: teacher.bytes } } : {}),
    };
  }

  steps(): StepsOptions {
    const { checkpoint, options, training, from, learner, looks, start } = this;
    const { batch, seq, evaluateEvery } = this.request.settings;
    const { parameters } = learner;
    const write = (step: number): void => {
      const best = looks.best ? { best: looks.best } : {};
      checkpoint?.save({ step, parameters, start, startPerplexities: this.priorPerplexities, ...best });
    };
    return {
      training,
      from,
      tokensPerStep: batch * seq,
      guessing: Math.log(this.model.config.vocab),
      evaluateEvery,
      look: (step) => ({
        ...looks.look(step, (matrix) => learner.nibbles(matrix)),
        ...(learner.maxProbability ? { maxProbability: learner.maxProbability() } : {}),
      }),
      ...(options.checkpoint ? { save: { ...options.checkpoint, write } } : {}),
      ...(options.signal ? { signal: options.signal } : {}),
    };
  }

  /** Scores the best mask on everything. */
  finish(): Omit<TrainFinished, 'seconds'> & { readonly best: BestMask } {
    const { masked, text, request, looks, start, priorPerplexities } = this;
    const { seq } = request.settings;
    const best = looks.best as BestMask; // the last step always looks
    const dense = perplexities(masked, text.heldOut, seq, null);
    const mask = perplexities(masked, text.heldOut, seq, byMatrix(best.nibbles));
    const heldOut: HeldOutRow[] = text.heldOut.map(({ source, guard }, i) => ({
      source,
      guard,
      dense: dense[i] as number,
      prior: priorPerplexities[i] as number,
      mask: mask[i] as number,
    }));
    const rate = distance(masked, start, byMatrix(best.nibbles));
    return {
      type: 'finished',
      task: request.task,
      heldOut,
      step: best.step,
      changed: changedShare(rate),
      bitsPerParameter: bitsPerParameter(rate, patternOf(masked).m),
      publishable: request.force || average(this.ownOf(mask)) <= average(this.ownOf(priorPerplexities)),
      best,
    };
  }

  dispose(): void {
    for (const part of this.owned) part.dispose();
  }

  private prior(): CodesByName | undefined {
    const { settings } = this.request;
    const { parent, onProgress } = this.options;
    if (parent) return codesOfSet(this.masked, parent);
    if (settings.prior === 'none') return undefined;
    const { streams } = this.text;
    return oneShotPrior(
      this.model,
      this.masked,
      settings.prior,
      { streams, seq: settings.seq, seed: settings.seed, refine: settings.refine },
      { onProgress: (done, of) => onProgress?.(`${settings.prior} prior`, done, of) },
    );
  }

  private scorePrior(): readonly number[] {
    this.options.onProgress?.('scoring the prior', 0, 0);
    return perplexities(this.masked, this.text.heldOut, this.request.settings.seq, byMatrix(this.start));
  }

  /** What decides every number of the run. */
  private identity(): RunIdentity {
    const { parent } = this.options;
    return {
      kind: 'mask',
      base: this.model.info.base,
      from: parent ? contentDigest(parent) : null,
      ...(this.teacher ? { teacher: this.teacher.identity } : {}),
      settings: this.request.settings,
      text: this.text.digest,
    };
  }

  private ownOf(values: readonly number[]): number[] {
    return values.filter((_, i) => this.text.heldOut[i]?.guard === false);
  }
}

/** What can be refused before anything is read. */
function checkRequest(model: Model, { sources, settings, from }: TrainRequest, { parent, teacher }: RunOptions): void {
  if (sources.length === 0) throw new Error('expected text to train on; give --data');
  if (settings.steps < 1) throw new Error(`expected at least one step but received --steps ${settings.steps}`);
  if (settings.seq > model.info.contextLength) {
    throw new Error(
      `expected --seq to be at most the model's context of ${model.info.contextLength} but received ${settings.seq}`,
    );
  }
  if (teacher) checkTeacher(model, teacher, setup.klWeightOf(settings)() > 0);
  if (from !== undefined && !parent) throw new Error(`expected the mask of ${from} to start from`);
  if (!parent && settings.prior === 'none' && settings.method !== 'gumbel') {
    throw new Error('expected --method gumbel beside --prior none: straight-through scores have no random start');
  }
}
