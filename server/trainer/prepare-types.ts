/** What preparing a base takes, says and leaves behind (design §10): the contract between the command line and the trainer. JSON throughout. */
import type { LossPhase } from './loss-schedule.js';
import type { TrainSource, TrainStarted, TrainStep } from './types.js';

/** Every constant of a preparation. Defaults are in defaults.ts. */
export interface PrepareSettings {
  /** Their steps together are the run's. None: the start is written as it is. */
  readonly phases: readonly LossPhase[];
  /** Sequences a step. */
  readonly batch: number;
  /** Tokens a sequence. */
  readonly seq: number;
  readonly seed: number;
  /** Peak; linear warm-up, cosine to the share `floor` of it. */
  readonly learningRate: number;
  readonly warmup: number;
  readonly floor: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
  readonly clip: number;
  /** Rounds of swaps at most that refine SparseGPT's mask, see refine.ts; 0 or undefined: none. */
  readonly refine?: number;
  /** Layers and matrices that stay dense and as they are. */
  readonly keepDense: readonly string[];
  /** Steps between two looks at the held-out text; 0: only at the end. */
  readonly evaluateEvery: number;
  /** Windows of held-out text that a look scores. */
  readonly evaluateWindows: number;
  /** Token after each document; undefined: the model's EOS. */
  readonly separator?: number;
  readonly bos: boolean;
}

export interface PrepareRequest {
  readonly sources: readonly TrainSource[];
  /** Text that is not trained on: says what preparing costs elsewhere. */
  readonly heldOut: readonly TrainSource[];
  readonly settings: PrepareSettings;
  /** Write the model even if it is worse than its start on its own held-out text. */
  readonly force: boolean;
}

/** Perplexities on the held-out text of one source. */
export interface PreparedRow {
  readonly source: string;
  /** True: text of `heldOut`. */
  readonly guard: boolean;
  /** The original. */
  readonly dense: number;
  /** What the run started from: mask and weights. */
  readonly start: number;
  /** The new base under its general mask, read back from the files. */
  readonly prepared: number;
  /** The new base without a mask. */
  readonly unmasked: number;
}

export interface PrepareFinished {
  readonly type: 'finished';
  readonly heldOut: readonly PreparedRow[];
  /** Base digest of the new weights. */
  readonly base: string;
  /** Content digest of its general mask. */
  readonly general: string;
  /** False: it lost to its start on its own held-out text and `force` was not given; nothing was written. */
  readonly publishable: boolean;
  readonly seconds: number;
}

export type PrepareEvent = TrainStarted | TrainStep | PrepareFinished;
