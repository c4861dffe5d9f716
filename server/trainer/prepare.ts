/**
 * Preparing a base (design §10): its mask is fixed, the kept weights are tuned so that the masked model is as good as it can be, and the result is a model directory like any other, frozen from then
 * on. With a given mask on the original weights this is sparse fine-tuning (MaskLLM's Table 3, last row); with no steps it is SparseGPT's weight update (Table 4).
 */
import { contentDigest } from '../../codec/content-digest.js';
import type { MaskSet } from '../../codec/mask-set.js';
import { native, type Handle } from '../../kernels/index.js';
import { loadModel, type Model } from '../engine/model.js';
import { matricesOf } from '../engine/weights.js';
import { Checkpoint, openSaved, type RunIdentity } from './checkpoint.js';
import { average, perplexities } from './held-out.js';
import { maskedLayersOf, maskedParameters } from './kept-dense.js';
import { KEPT_WEIGHTS_BYTES_PER_WEIGHT, type KeptWeights } from './kept-weights.js';
import { hasKl, klWeightAt, totalSteps } from './loss-schedule.js';
import { byMatrix, codesOfSet, type NibblesByName } from './nibbles.js';
import { OpenedRun, type OpeningOptions, type RunPlan } from './opened-run.js';
import { originalStart, sparseGptStart, type Start } from './prepare-start.js';
import type { PreparedRow, PrepareEvent, PrepareFinished, PrepareRequest } from './prepare-types.js';
import { GENERAL_TASK, writePreparedModel, type PreparedFiles } from './prepared-model.js';
import { refinedStart } from './refined-start.js';
import { priorBytes } from './run-prior.js';
import { runSteps, type StepsOptions } from './run-steps.js';
import type { HeldOutText } from './run-text.js';
import { checkTeacher } from './teacher.js';
import type { Training } from './training.js';
import type { TrainStarted } from './types.js';

/** Of an updated weight. */
const BF16 = 2;

export interface PrepareOptions extends OpeningOptions {
  /** Directory that is made; an empty one may be there. */
  readonly out: string;
  /** Keep this mask and start from the original weights; without it SparseGPT chooses mask and start. */
  readonly mask?: MaskSet;
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
  checkRequest(model, request, options);
  const masked = maskedLayersOf(model, request.settings.keepDense);
  const opened = await OpenedRun.open(model, masked, planOf(request, masked, options.mask), options);
  try {
    const run = new PrepareRun(opened, model, request, options);
    yield run.started();
    yield* runSteps(run.steps());
    yield { ...run.finish(), seconds: (performance.now() - began) / 1000 };
  } finally {
    opened.dispose();
  }
}

/** What can be refused before anything is read. */
function checkRequest(model: Model, { sources, settings }: PrepareRequest, { mask, teacher }: PrepareOptions): void {
  if (sources.length === 0) throw new Error('expected text to train on; give --data');
  if (mask && (settings.refine ?? 0) > 0) {
    throw new Error("expected --refine without --mask: it refines SparseGPT's mask, not one that is given");
  }
  if (teacher) checkTeacher(model, teacher, hasKl(settings.phases));
}

function planOf({ sources, heldOut, settings }: PrepareRequest, masked: Model, mask: MaskSet | undefined): RunPlan {
  return {
    task: GENERAL_TASK,
    text: { sources, guards: heldOut },
    settings: { ...settings, steps: totalSteps(settings.phases) },
    learningRate: settings.learningRate,
    bytesPerWeight: KEPT_WEIGHTS_BYTES_PER_WEIGHT,
    startBytes: mask ? 0 : priorBytes(masked, 'sparsegpt') + BF16 * maskedParameters(masked),
    models: 1,
  };
}

/** Everything that a run holds in memory. */
class PrepareRun {
  private readonly learner: KeptWeights;
  private readonly mask: NibblesByName;
  private readonly training: Training;
  private readonly masked: Model;
  private readonly startPerplexities: readonly number[];
  private readonly checkpoint: Checkpoint | undefined;
  private readonly from: number;
  /** (rows, cols) bf16 of the largest matrix: weights on their way to a look. */
  private readonly rounded: Handle;

  /** What it allocates belongs to `opened`. */
  constructor(
    private readonly opened: OpenedRun,
    private readonly model: Model,
    private readonly request: PrepareRequest,
    private readonly options: PrepareOptions,
  ) {
    const { masked, text } = opened;
    const { checkpoint } = opened.options;
    this.masked = masked;
    this.checkpoint = checkpoint && new Checkpoint(checkpoint.directory, this.identity());
    let scored: readonly number[] | undefined;
    const saved = openSaved(this.checkpoint, checkpoint);
    try {
      const names = matricesOf(masked.weights).map(({ name }) => name);
      const start = saved ? originalStart(masked, saved.start(names)) : this.start();
      [this.learner, this.mask] = [opened.own(start.learner), start.mask];
      saved?.restore(this.learner.parameters);
      this.from = saved?.step ?? 0;
      scored = saved?.startPerplexities;
    } finally {
      saved?.close();
    }
    const rounded = native.alloc(2 * Math.max(...this.learner.parameters.map(({ count }) => count)));
    this.rounded = rounded;
    opened.own({ dispose: () => native.free(rounded) });
    this.training = opened.training(this.learner, this.from, (step) => klWeightAt(request.settings.phases, step));
    options.onProgress?.('scoring the start', 0, 0);
    this.startPerplexities = scored ?? this.perplexities(text.heldOut);
  }

  started(): TrainStarted {
    const { opened, learner, training, from, startPerplexities } = this;
    return opened.started(learner, training, from, startPerplexities);
  }

  steps(): StepsOptions {
    const { opened, checkpoint, learner, mask: start, startPerplexities } = this;
    const { parameters } = learner;
    const own = opened.text.heldOut.filter(({ guard }) => !guard);
    return opened.steps(this.training, this.from, {
      write: (step) => checkpoint?.save({ step, parameters, start, startPerplexities }),
      look: () => ({ heldOutPerplexity: average(this.perplexities(own)) }),
    });
  }

  /** Writes the new model, scores it as it lies on disk, and publishes it unless it is worse than its start. */
  finish(): Omit<PrepareFinished, 'seconds'> {
    const { request, options, opened, masked, learner, mask } = this;
    options.onProgress?.('writing', 0, 0);
    const files = writePreparedModel(options.out, masked, learner.parameters, mask, this.recipe());
    try {
      const heldOut = this.rows(files);
      const [prepared, start] = [heldOut.map((row) => row.prepared), heldOut.map((row) => row.start)];
      const publishable = request.force || opened.ownAverage(prepared) <= opened.ownAverage(start);
      if (publishable) files.publish();
      return { type: 'finished', heldOut, base: files.base, general: files.general, publishable };
    } finally {
      files.discard(); // what was published is not there any more
    }
  }

  private start(): Start {
    const { masked, options, opened, request } = this;
    if (options.mask) return originalStart(masked, codesOfSet(masked, options.mask));
    const { seq, seed, refine = 0 } = request.settings;
    const calibrating = { streams: opened.text.streams, seq, seed, refine };
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
    const { opened, masked, request, startPerplexities } = this;
    const { text } = opened;
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
    const { request, opened } = this;
    return {
      start: this.startName(),
      settings: request.settings,
      ...(opened.teacher ? { teacher: opened.teacher.identity } : {}),
      sources: request.sources.map(({ name }) => name),
      trainTokens: opened.text.trainTokens,
      text: opened.text.digest,
    };
  }

  private startName(): unknown {
    if (this.options.mask) return { mask: contentDigest(this.options.mask) };
    return (this.request.settings.refine ?? 0) > 0 ? 'sparsegpt-refined-update' : 'sparsegpt-update';
  }

  /** What decides every number of the run. */
  private identity(): RunIdentity {
    const { opened, options } = this;
    const { mask } = options;
    return {
      kind: 'weights',
      base: this.model.info.base,
      mask: mask ? contentDigest(mask) : null,
      ...(opened.teacher ? { teacher: opened.teacher.identity } : {}),
      settings: {
        ...this.request.settings,
        phases: this.request.settings.phases.map(({ klWeight, steps }) => `${klWeight}:${steps}`),
      },
      text: opened.text.digest,
    };
  }
}
