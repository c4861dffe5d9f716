/**
 * A mask from text, start to end: split the text, find where the mask starts, learn, look at held-out text on the way, and hand back the best mask seen. Drives one step at a
 * time, so that whoever iterates can report, cancel and serve in between; everything native happens in the calling thread.
 */
import { contentDigest } from '../../codec/content-digest.js';
import type { MaskSet } from '../../codec/mask-set.js';
import type { Model } from '../engine/model.js';
import { matricesOf } from '../engine/weights.js';
import { Checkpoint, openSaved, type BestMask, type RunIdentity } from './checkpoint.js';
import { average, distance, MaskLooks, perplexities } from './held-out.js';
import { maskedLayersOf } from './kept-dense.js';
import type { Learner } from './learner.js';
import { KL_WEIGHT, lossAgainst } from './loss-schedule.js';
import { patternNamed, patternOf, type MaskedModel } from './n-of-m.js';
import { byMatrix, codesOfSet, gatherCodes, maskSetOf, type CodesByName } from './nibbles.js';
import { OpenedRun, type OpeningOptions, type RunPlan } from './opened-run.js';
import { bitsPerParameter, changedShare } from './rate.js';
import * as setup from './run-learner.js';
import { oneShotPrior, priorBytes } from './run-prior.js';
import { runSteps, type StepsOptions } from './run-steps.js';
import { checkTeacher } from './teacher.js';
import type { Training } from './training.js';
import type { HeldOutRow, TrainEvent, TrainFinished, TrainLoss, TrainRequest, TrainStarted } from './types.js';

export interface RunOptions extends OpeningOptions {
  /** The mask of `request.from`. */
  readonly parent?: MaskSet;
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
  const opened = await OpenedRun.open(model, masked, planOf(request, masked, options.parent), options);
  try {
    const run = new MaskRun(opened, model, masked, request, options.parent);
    yield run.started();
    yield* runSteps(run.steps());
    const { best, ...finished } = run.finish();
    yield { ...finished, seconds: (performance.now() - began) / 1000 };
    return maskSetOf(masked, best.nibbles, model.info.base, options.parent);
  } finally {
    opened.dispose();
  }
}

function planOf(
  { task, sources, guards, settings }: TrainRequest,
  masked: MaskedModel,
  parent: MaskSet | undefined,
): RunPlan {
  const { prior, refine } = settings;
  return {
    task,
    text: { sources, guards },
    settings,
    learningRate: setup.peakLearningRate(settings),
    bytesPerWeight: setup.learnerBytesPerWeight(settings),
    startBytes: parent || prior === 'none' ? 0 : priorBytes(masked, prior, refine),
    models: 0,
  };
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
  private readonly loss: { readonly loss: TrainLoss; readonly teacherPerplexity?: number };

  /** What it allocates belongs to `opened`. */
  constructor(
    private readonly opened: OpenedRun,
    private readonly model: Model,
    private readonly masked: MaskedModel,
    private readonly request: TrainRequest,
    private readonly parent: MaskSet | undefined,
  ) {
    const { settings } = request;
    const { checkpoint } = opened.options;
    this.checkpoint = checkpoint && new Checkpoint(checkpoint.directory, this.identity());
    let scored: readonly number[] | undefined;
    const saved = openSaved(this.checkpoint, checkpoint);
    try {
      const names = matricesOf(masked.weights).map(({ name }) => name);
      const prior = saved ? saved.start(names) : this.prior();
      const start = settings.prior === 'none' && !parent ? undefined : prior;
      this.learner = opened.own(setup.createLearner(masked, start, settings));
      saved?.restore(this.learner.parameters);
      this.start = prior ?? gatherCodes(masked, (matrix) => this.learner.nibbles(matrix));
      this.looks = new MaskLooks(masked, opened.text.heldOut, settings.seq, this.start, saved?.best(names));
      this.from = saved?.step ?? 0;
      scored = saved?.startPerplexities;
    } finally {
      saved?.close();
    }
    this.priorPerplexities = scored ?? this.scorePrior();
    this.loss = settings.loss === 'auto' ? this.chooseLoss() : { loss: settings.loss };
    const klWeight = KL_WEIGHT[this.loss.loss];
    this.training = opened.training(this.learner, this.from, () => klWeight);
  }

  started(): TrainStarted {
    const { opened, learner, training, from, priorPerplexities } = this;
    const { loss, teacherPerplexity } = this.loss;
    const chosen = teacherPerplexity === undefined ? {} : { chosenLoss: { loss, teacherPerplexity } };
    return { ...opened.started(learner, training, from, priorPerplexities), ...chosen };
  }

  steps(): StepsOptions {
    const { opened, checkpoint, learner, looks, start, priorPerplexities: startPerplexities } = this;
    const { parameters } = learner;
    return opened.steps(this.training, this.from, {
      write: (step) => {
        const best = looks.best ? { best: looks.best } : {};
        checkpoint?.save({ step, parameters, start, startPerplexities, ...best });
      },
      look: (step) => ({
        ...looks.look(step, (matrix) => learner.nibbles(matrix)),
        ...(learner.maxProbability ? { maxProbability: learner.maxProbability() } : {}),
      }),
    });
  }

  /** Scores the best mask on everything. */
  finish(): Omit<TrainFinished, 'seconds'> & { readonly best: BestMask } {
    const { masked, opened, request, looks, start, priorPerplexities } = this;
    const { text } = opened;
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
      publishable: request.force || opened.ownAverage(mask) <= opened.ownAverage(priorPerplexities),
      best,
    };
  }

  private prior(): CodesByName | undefined {
    const { settings } = this.request;
    const { parent, opened } = this;
    const { onProgress } = opened.options;
    if (parent) return codesOfSet(this.masked, parent);
    if (settings.prior === 'none') return undefined;
    const { streams } = opened.text;
    return oneShotPrior(
      this.model,
      this.masked,
      settings.prior,
      { streams, seq: settings.seq, seed: settings.seed, refine: settings.refine },
      { onProgress: (done, of) => onProgress?.(`${settings.prior} prior`, done, of) },
    );
  }

  /** The same again in a resumed run: both models and the held-out text are. */
  private chooseLoss(): { readonly loss: TrainLoss; readonly teacherPerplexity: number } {
    const { opened, masked, request, priorPerplexities } = this;
    const own = opened.text.heldOut.filter(({ guard }) => !guard);
    const teacherPerplexity =
      opened.teacher?.perplexity ?? average(perplexities(masked, own, request.settings.seq, null));
    return { loss: lossAgainst(teacherPerplexity, opened.ownAverage(priorPerplexities)), teacherPerplexity };
  }

  private scorePrior(): readonly number[] {
    this.opened.options.onProgress?.('scoring the prior', 0, 0);
    return perplexities(this.masked, this.opened.text.heldOut, this.request.settings.seq, byMatrix(this.start));
  }

  /** What decides every number of the run. */
  private identity(): RunIdentity {
    const { parent, opened } = this;
    return {
      kind: 'mask',
      base: this.model.info.base,
      from: parent ? contentDigest(parent) : null,
      ...(opened.teacher ? { teacher: opened.teacher.identity } : {}),
      settings: this.request.settings,
      text: opened.text.digest,
    };
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
  if (teacher) checkTeacher(model, teacher, settings.loss !== 'lm');
  if (from !== undefined && !parent) throw new Error(`expected the mask of ${from} to start from`);
  if (!parent && settings.prior === 'none' && settings.method !== 'gumbel') {
    throw new Error('expected --method gumbel beside --prior none: straight-through scores have no random start');
  }
}
