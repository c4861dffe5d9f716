/** What a training run takes, says and leaves behind: the contract between the command line, the server's jobs and the trainer. JSON throughout. */

/** `ste`: straight-through top-2 on four scores a group. `gumbel`: MaskLLM (arXiv 2409.17481). */
export type TrainMethod = 'ste' | 'gumbel';
/** `lm`: next token. `kl`: KL(teacher ‖ student), the teacher being the dense model unless named. `mix`: half of each. */
export type TrainLoss = 'lm' | 'kl' | 'mix';
/** 2:4 is what servers serve; the others are learned and scored as masked dense weights. */
export type MaskPattern = '2:4' | '1:4' | '4:8';
export type PriorMethod = 'magnitude' | 'wanda' | 'sparsegpt' | 'none';

/** Every constant of a run: what `--help` lists. Defaults are in defaults.ts, by method. */
export interface MaskTrainingSettings {
  readonly method: TrainMethod;
  /** `auto`: `mix`, or `lm` where the teacher is not clearly better than the start on the run's own held-out text. */
  readonly loss: TrainLoss | 'auto';
  /** Weights kept of every so many; undefined: 2:4. */
  readonly pattern?: MaskPattern;
  /** Where the mask starts when it is not transferred from another task's. */
  readonly prior: PriorMethod;
  /** Rounds of swaps at most that refine the prior, see refine.ts; 0: none. */
  readonly refine: number;
  readonly steps: number;
  /** Sequences a step. */
  readonly batch: number;
  /** Tokens a sequence. */
  readonly seq: number;
  readonly seed: number;
  /** Peak learning rate; undefined: from `travel`. */
  readonly learningRate?: number;
  /** Σ of the steps' learning rates ÷ the prior's margin. */
  readonly travel: number;
  readonly warmup: number;
  /** Share of the peak that the cosine ends at. */
  readonly floor: number;
  /** Decay of the first moment; ste: 0, see defaults.ts. */
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  /** Adds this share of the step's root mean square gradient to ε, see optimizer.ts. */
  readonly relativeEpsilon: number;
  /** ste: weight of a group's curvature (empirical Fisher) against its gain, see optimizer.ts; 1: as estimated, 0: none. */
  readonly curvature: number;
  readonly weightDecay: number;
  readonly clip: number;
  /** ste: scores start at ± margin. */
  readonly margin: number;
  /** λ of the pull towards the start, see churn-penalty.ts; 0: none. */
  readonly rate: number;
  /** Largest bits per parameter of the mask given its start; undefined: any. */
  readonly maxBits?: number;
  /** Share of a step's sequences that are text of the guards, with KL as their loss; 0: guards are only looked at. */
  readonly guardShare: number;
  /** gumbel: σ of the initial logits; α of Eq. 10; κ and τ, first and last; λ of Eq. 8. */
  readonly sigma: number;
  readonly priorStrength: number;
  readonly scale: readonly [number, number];
  readonly temperature: readonly [number, number];
  readonly regularisation: number;
  /** What stays dense and out of the mask set: layers as `last:1`, `first:2`, an index or `model.layers.5`, or a matrix as `model.layers.5.mlp.down_proj`. */
  readonly keepDense: readonly string[];
  /** Steps between two looks at the held-out text; 0: only at the end. The best mask that a look saw is the result. */
  readonly evaluateEvery: number;
  /** Windows of held-out text that a look scores. */
  readonly evaluateWindows: number;
  /** Token after each document; undefined: the model's EOS. */
  readonly separator?: number;
  readonly bos: boolean;
}

/** Text of one --data argument. */
export interface TrainSource {
  readonly name: string;
  readonly documents: readonly string[];
}

export interface TrainRequest {
  readonly task: string;
  /** Task (or file, locally) whose mask is the starting point and the parent. */
  readonly from?: string;
  readonly sources: readonly TrainSource[];
  /** Text of other domains: their held-out part is reported beside the task's own, the rest keeps the mask decent there (guardShare). */
  readonly guards: readonly TrainSource[];
  readonly settings: MaskTrainingSettings;
  /** Publish or write even if the mask loses to its prior on held-out text. */
  readonly force: boolean;
}

/** Before the first step. */
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
  /** Held-out perplexity of the mask that the run starts from, average of its own sources. */
  readonly priorPerplexity: number;
  readonly memory: {
    readonly activationBytes: number;
    readonly learnerBytes: number;
    readonly bytesPerWeight: number;
    readonly recomputes: boolean;
  };
  /** What `auto` came to, from the held-out perplexities of the teacher and of the start. */
  readonly chosenLoss?: { readonly loss: TrainLoss; readonly teacherPerplexity: number };
  /** Where KL is taken to another model than the dense one: its held-out perplexity, average of the own sources, and the memory that it adds. */
  readonly teacher?: { readonly perplexity: number; readonly bytes: number };
}

/** After a step. */
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
  /** At the steps that looked: share of groups whose pattern differs from the prior's, bits per parameter given it, held-out perplexity (average of its own sources). */
  readonly changed?: number;
  readonly bitsPerParameter?: number;
  readonly heldOutPerplexity?: number;
  /** gumbel: mean over groups of the likeliest pattern's probability, softmax(π·κ). ste has none: its mask is hard at every step. */
  readonly maxProbability?: number;
}

/** Perplexities on the held-out text of one source. */
export interface HeldOutRow {
  readonly source: string;
  readonly guard: boolean;
  readonly dense: number;
  readonly prior: number;
  readonly mask: number;
}

export interface TrainFinished {
  readonly type: 'finished';
  readonly task: string;
  readonly heldOut: readonly HeldOutRow[];
  /** The step after which the mask was taken: the best look at its own held-out text. */
  readonly step: number;
  readonly changed: number;
  readonly bitsPerParameter: number;
  /** False: it lost to its prior on its own held-out text and `force` was not given. */
  readonly publishable: boolean;
  readonly seconds: number;
}

export type TrainEvent = TrainStarted | TrainStep | TrainFinished;
