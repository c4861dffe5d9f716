/** What /v1/train takes and gives. The trainer's own settings and events keep their names. */
import type { ChangeOptions } from './types.js';

/** Text of one source: each is sampled alike, whatever its size. */
export interface TrainSource {
  readonly name: string;
  readonly documents: readonly string[];
}

/** Constants of a run; what is left out has its default. GET /openapi.json has every range. */
export interface TrainSettings {
  readonly method?: 'ste' | 'gumbel';
  /** `auto`: `mix`, or `lm` where the teacher is worse than the start on held-out text. */
  readonly loss?: 'auto' | 'lm' | 'kl' | 'mix';
  /** Where the mask starts without `from`. */
  readonly prior?: 'magnitude' | 'wanda' | 'sparsegpt' | 'none';
  /** Rounds of swaps at most that refine the prior. */
  readonly refine?: number;
  readonly steps?: number;
  /** Sequences a step. */
  readonly batch?: number;
  /** Tokens a sequence. */
  readonly seq?: number;
  readonly seed?: number;
  readonly learningRate?: number;
  /** Σ of the steps' learning rates ÷ the prior's margin. */
  readonly travel?: number;
  readonly warmup?: number;
  readonly floor?: number;
  readonly beta1?: number;
  readonly beta2?: number;
  readonly epsilon?: number;
  /** Adds this share of the step's root mean square gradient to ε. */
  readonly relativeEpsilon?: number;
  /** Weight of a group's curvature against its gain; 1: as estimated. */
  readonly curvature?: number;
  readonly weightDecay?: number;
  readonly clip?: number;
  readonly margin?: number;
  /** λ of the pull towards the start. */
  readonly rate?: number;
  /** Largest bits per parameter of the mask given its start. */
  readonly maxBits?: number;
  /** Share of a step's sequences that are text of the guards. */
  readonly guardShare?: number;
  readonly sigma?: number;
  readonly priorStrength?: number;
  readonly scale?: readonly [number, number];
  readonly temperature?: readonly [number, number];
  readonly regularisation?: number;
  readonly keepDense?: readonly string[];
  readonly evaluateEvery?: number;
  readonly evaluateWindows?: number;
  /** Token id after each document; default: the model's end of text. */
  readonly separator?: number;
  readonly bos?: boolean;
}

export interface TrainRequest {
  /** The name to publish under. */
  readonly task: string;
  /** `general` or `general@sha256:<digest>`: the mask that is the start and the parent. */
  readonly from?: string;
  readonly sources: readonly TrainSource[];
  /** Text of other domains: reported beside the task's own, and with `guardShare` kept decent. */
  readonly guards?: readonly TrainSource[];
  readonly settings?: TrainSettings;
  /** First train a low-rank adapter of the dense model on the same text, and take KL to that. What is left out has its default. */
  readonly tuneTeacher?: TrainTeacher;
  /** Publish even if the mask loses to its prior on held-out text. */
  readonly force?: boolean;
}

export interface TrainTeacher {
  readonly rank?: number;
  readonly steps?: number;
  /** Peak. */
  readonly learningRate?: number;
}

/** The preconditions must hold when the job is posted, and when its mask is published. */
export interface TrainOptions extends ChangeOptions {
  /** Only if there is no such task. */
  readonly ifAbsent?: boolean;
}

export interface TrainStarted {
  readonly type: 'started';
  readonly task: string;
  readonly steps: number;
  /** Steps that an earlier run had done. */
  readonly resumedFrom: number;
  /** Where it trains. */
  readonly backend: 'cpu' | 'cuda';
  readonly trainTokens: number;
  readonly heldOutTokens: number;
  readonly learningRate: number;
  /** Held-out perplexity of the mask that the run starts from. */
  readonly priorPerplexity: number;
  readonly memory: {
    readonly activationBytes: number;
    readonly learnerBytes: number;
    readonly bytesPerWeight: number;
    readonly recomputes: boolean;
  };
  /** What the loss `auto` came to. */
  readonly chosenLoss?: { readonly loss: 'lm' | 'kl' | 'mix'; readonly teacherPerplexity: number };
}

export interface TrainStep {
  readonly type: 'step';
  readonly step: number;
  readonly steps: number;
  readonly loss: number;
  readonly lm: number;
  readonly kl: number;
  readonly learningRate: number;
  readonly gradientNorm: number;
  readonly tokensPerSecond: number;
  readonly secondsLeft: number;
  /** At the steps that looked at held-out text. */
  readonly changed?: number;
  readonly bitsPerParameter?: number;
  /** gumbel: mean over groups of the likeliest pattern's probability. */
  readonly maxProbability?: number;
  readonly heldOutPerplexity?: number;
}

export interface TrainFinished {
  readonly type: 'finished';
  readonly task: string;
  /** Perplexities on held-out text. */
  readonly heldOut: readonly {
    readonly source: string;
    readonly guard: boolean;
    readonly dense: number;
    readonly prior: number;
    readonly mask: number;
  }[];
  readonly step: number;
  /** Share of the groups whose pattern is not the prior's. */
  readonly changed: number;
  readonly bitsPerParameter: number;
  readonly publishable: boolean;
  readonly seconds: number;
}

/** What happens before the first step. */
export interface TrainProgress {
  readonly type: 'progress';
  readonly stage: string;
  readonly done: number;
  readonly of: number;
}

export type TrainEvent =
  { readonly type: 'job'; readonly job: TrainJob } | TrainProgress | TrainStarted | TrainStep | TrainFinished;

export type TrainState = 'queued' | 'running' | 'finished' | 'failed' | 'cancelled';

export interface TrainSourceSummary {
  readonly name: string;
  readonly documents: number;
  readonly characters: number;
}

export interface TrainJob {
  readonly object: 'train.job';
  readonly id: string;
  readonly task: string;
  readonly from: string | null;
  /** Digest of the container that `from` named when the job was posted. */
  readonly parent: string | null;
  readonly state: TrainState;
  /** 0: running; 1: next; null: over. */
  readonly position: number | null;
  readonly sources: readonly TrainSourceSummary[];
  readonly guards: readonly TrainSourceSummary[];
  readonly settings: TrainSettings;
  readonly force: boolean;
  readonly tuneTeacher: TrainTeacher | null;
  /** ISO 8601. */
  readonly created_at: string;
  readonly started_at: string | null;
  readonly ended_at: string | null;
  /** The last of its run. */
  readonly event: TrainStarted | TrainStep | TrainFinished | null;
  readonly finished: TrainFinished | null;
  /** Of what was published. */
  readonly digest: string | null;
  readonly bytes: number | null;
  readonly error: { readonly code: string; readonly message: string } | null;
}
