/** The steps of a run, one event each: looks at held-out text, checkpoints, and an open ear for whoever wants to stop it. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { StepReport, Training } from './training.js';
import type { TrainStep } from './types.js';

export interface SaveOptions {
  /** Steps between two checkpoints; 0: only when the run is stopped, and at its end. */
  readonly every: number;
  /** A checkpoint as well when the last one is older than this, and than ten times what it took to write; 0: every step. */
  readonly everySeconds?: number;
  readonly directory: string;
  readonly write: (step: number) => void;
}

/** What a look at held-out text adds to a step's event. */
export type Look = Pick<TrainStep, 'changed' | 'bitsPerParameter' | 'heldOutPerplexity' | 'maxProbability'>;

export interface StepsOptions {
  readonly training: Training;
  /** Steps that an earlier run had done. */
  readonly from: number;
  readonly tokensPerStep: number;
  /** ln V: the loss of guessing. */
  readonly guessing: number;
  /** Steps between looks; 0: only after the last. */
  readonly evaluateEvery: number;
  readonly look: (step: number) => Look;
  readonly save?: SaveOptions;
  readonly signal?: AbortSignal;
}

/** Somebody stopped the run. */
export class TrainingStopped extends Error {
  /** `directory`: where its state is; undefined when none was asked for. `what`: was stopped. */
  constructor(
    readonly step: number,
    readonly steps: number,
    readonly directory: string | undefined,
    what = 'training',
  ) {
    const saved = directory === undefined ? 'nothing was saved' : `saved in ${directory}`;
    super(`${what} stopped after step ${step} of ${steps}; ${saved}`);
    this.name = 'TrainingStopped';
  }
}

/** A loss this much above that of guessing (nats) for this many steps, after a start below it, does not come back. */
const HOPELESS_NATS = 1;
const HOPELESS_STEPS = 10;

/** A checkpoint of a large model takes seconds: by the clock it takes a tenth of the time at most. */
const WRITE_SHARE = 10;

/** Runs what is left. Throws TrainingStopped (its state saved), DivergenceError, or one line on a loss that has run away. */
export async function* runSteps(options: StepsOptions): AsyncGenerator<TrainStep, void, undefined> {
  const { training, from, evaluateEvery, look, save, signal } = options;
  const { steps } = training;
  const started = performance.now();
  const watch = runawayWatch(options.guessing);
  const clock = saveClock(save);
  let done = from;
  while (!training.finished) {
    await nextTurn(); // signals, messages and timers have their turn between steps
    if (signal?.aborted) {
      save?.write(done);
      throw new TrainingStopped(done, steps, save?.directory);
    }
    const report = training.step();
    done = report.step;
    watch(report);
    const looks = done === steps || (evaluateEvery > 0 && done % evaluateEvery === 0);
    const seen = looks ? look(done) : {};
    if (save && (done === steps || clock.isDue(done))) clock.time(() => save.write(done));
    yield { ...event(report, options, performance.now() - started), ...seen };
  }
}

interface SaveClock {
  isDue(step: number): boolean;
  /** Runs a write, and counts from its end. */
  time(write: () => void): void;
}

function saveClock(save: SaveOptions | undefined): SaveClock {
  const { every = 0, everySeconds = Infinity } = save ?? {};
  let last = performance.now();
  let pause = everySeconds * 1000;
  return {
    isDue: (step) => (every > 0 && step % every === 0) || performance.now() - last >= pause,
    time: (write) => {
      const began = performance.now();
      write();
      last = performance.now();
      if (everySeconds > 0) pause = Math.max(everySeconds * 1000, WRITE_SHARE * (last - began));
    },
  };
}

function event(report: StepReport, { training, from, tokensPerStep }: StepsOptions, milliseconds: number): TrainStep {
  const { step, loss, lm, kl, learningRate, gradientNorm } = report;
  const { steps } = training;
  const perStep = milliseconds / 1000 / (step - from);
  return {
    type: 'step',
    step,
    steps,
    loss,
    lm,
    kl,
    learningRate,
    gradientNorm,
    tokensPerSecond: tokensPerStep / perStep,
    secondsLeft: perStep * (steps - step),
  };
}

function runawayWatch(guessing: number): (report: StepReport) => void {
  let first: number | undefined;
  let hopeless = 0;
  return ({ lm, step }) => {
    first ??= lm;
    hopeless = first < guessing && lm > guessing + HOPELESS_NATS ? hopeless + 1 : 0;
    if (hopeless < HOPELESS_STEPS) return;
    throw new Error(
      `training diverged by step ${step}: the loss per token is ${lm.toFixed(2)} nats, above the ${guessing.toFixed(2)} of guessing; lower the learning rate (--travel or --lr)`,
    );
  };
}
