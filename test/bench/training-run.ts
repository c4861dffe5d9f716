/**
 * One measured training run, in a process of its own so that its peak memory is its own: `node training-run.js JSON` trains a mask of models/tiny or another model for a few
 * steps on random tokens (speed does not depend on which) and prints one JSON line.
 */
import { native, type BackendName } from '../../kernels/index.js';
import { loadModel } from '../../server/engine/model.js';
import { Random } from '../../server/engine/random.js';
import { ACTIVATION_BYTES, maskTrainingDefaults } from '../../server/trainer/defaults.js';
import { createLearner, optimizerOf, peakLearningRate, scheduleOf } from '../../server/trainer/run-learner.js';
import { KL_WEIGHT } from '../../server/trainer/loss-schedule.js';
import { oneShotPrior } from '../../server/trainer/run-prior.js';
import { Training } from '../../server/trainer/training.js';
import type { TrainLoss, TrainMethod } from '../../server/trainer/types.js';

export interface TrainingRun {
  readonly backend: BackendName;
  readonly model: string;
  readonly method: TrainMethod;
  readonly loss: TrainLoss;
  /** 0: as many as serving takes. */
  readonly threads: number;
  readonly batch: number;
  readonly seq: number;
  readonly warmup: number;
  readonly timed: number;
}

export interface TrainingRunResult {
  /** Of the timed steps together. */
  readonly tokensPerSecond: number;
  /** Largest resident set of the process. */
  readonly peakBytes: number;
  /** Buffers of activations, parameters and optimizer. */
  readonly nativeBytes: number;
  readonly threads: number;
}

const STREAM_TOKENS = 1 << 16;

const [argument] = process.argv.slice(2);
if (argument === undefined) throw new Error('expected the run as JSON: this is started by `npm run bench -- train`');
console.log(JSON.stringify(measure(JSON.parse(argument) as TrainingRun)));

function measure({
  backend,
  model: directory,
  method,
  loss,
  threads,
  batch,
  seq,
  warmup,
  timed,
}: TrainingRun): TrainingRunResult {
  native.useBackend(backend);
  const model = loadModel(directory, { threads });
  const settings = { ...maskTrainingDefaults(method, false), method, loss, batch, seq, steps: warmup + timed };
  const streams = [randomTokens(STREAM_TOKENS, model.config.vocab)];
  const prior = oneShotPrior(model, model, 'magnitude', { streams, seq, seed: 0 });
  const learner = createLearner(model, prior, settings);
  const training = new Training(model, learner, streams, {
    batch,
    tokens: seq,
    activationBytes: ACTIVATION_BYTES,
    schedule: scheduleOf(settings),
    learningRate: peakLearningRate(settings),
    optimizer: optimizerOf(settings),
    klWeight: () => KL_WEIGHT[loss],
    seed: 0,
  });
  for (let step = 0; step < warmup; step++) training.step();
  native.synchronize();
  const started = performance.now();
  for (let step = 0; step < timed; step++) training.step();
  native.synchronize();
  const seconds = (performance.now() - started) / 1000;
  const result: TrainingRunResult = {
    tokensPerSecond: (timed * batch * seq) / seconds,
    peakBytes: process.resourceUsage().maxRSS * 1024,
    nativeBytes: training.bytes,
    threads: native.info().threads,
  };
  training.dispose();
  learner.dispose();
  model.dispose();
  return result;
}

function randomTokens(count: number, vocabulary: number): Int32Array {
  const random = new Random(1);
  return Int32Array.from({ length: count }, () => Math.floor(random.uniform() * vocabulary));
}
