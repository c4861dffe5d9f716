/** What the engine takes and gives: the contract between the HTTP thread, the engine worker and the command line. */
import type { BackendName } from '../../kernels/backend-types.js';
import type { Handle } from '../../kernels/handle.js';
import type { Digest } from '../../codec/mask-set.js';

/** A 2:4 matrix as compress24 wrote it. */
export interface CompactedMatrix {
  /** The kept weights with their metadata: 9/16 of the dense bytes on a CPU. */
  readonly packed: Handle;
}

/**
 * A resident task: what its masked matrices need, by Hugging Face parameter name. Others stay dense. A patched task has its parent's
 * `matrices`, the same handles, and `patches` of its own: tasks that share a handle are multiplied together.
 */
export interface TaskWeights {
  readonly digest: Digest;
  /** Of a patched task: its parent's. */
  readonly matrices: Readonly<Record<string, CompactedMatrix>>;
  /** What buildPatch24 made of the matrices that differ from the parent's. Present: the task is patched, and its parent stays leased. */
  readonly patches?: Readonly<Record<string, Handle>>;
  /** codes24's, of matrices that are masked and not in `matrices`: a bit a weight, multiplied from the shared dense weights. */
  readonly codes?: Readonly<Record<string, Handle>>;
  /** Of 1:4 and 4:8 masks, which no kernel runs: (rows, cols) bf16 with zeros. The trainer and `eval --local` score by them; a server holds none. */
  readonly maskedDense?: Readonly<Record<string, Handle>>;
  /** Bytes of native memory that this task owns: of a patched one, its patches'. */
  readonly bytes: number;
}

/** One matrix that a mask may cover. */
export interface MaskableMatrix {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  /** (rows, cols) bf16: the frozen weights, valid in every thread while the engine lives. */
  readonly weight: Handle;
  /** Bytes that it takes compacted, where the model runs; undefined: 9/16 of its dense ones. */
  readonly packedBytes?: number;
}

/** Compacted bytes of a matrix. */
export function packedBytesOf({ rows, cols, packedBytes }: MaskableMatrix): number {
  return packedBytes ?? (rows * cols * 9) / 8;
}

/** Memory of the GPU that a model runs on, after its weights. */
export interface DeviceMemory {
  readonly name: string;
  readonly freeBytes: number;
  readonly totalBytes: number;
}

/** What the server knows of the loaded model. */
export interface ModelInfo {
  /** Base name of the model directory, e.g. `tiny`. */
  readonly name: string;
  readonly directory: string;
  readonly architecture: string;
  readonly base: Digest;
  readonly vocabularySize: number;
  /** Positions a sequence may have: the model's, or less by --max-context. */
  readonly contextLength: number;
  readonly parameters: number;
  readonly bosId: number | undefined;
  readonly eosIds: readonly number[];
  readonly maskable: readonly MaskableMatrix[];
  /** Where it runs, and its tasks are; undefined: the CPU. */
  readonly backend?: BackendName;
  /** It runs on a GPU, and `maskable`'s weights are in host memory: only tasks that cover all of them can run. */
  readonly denseOnHost?: boolean;
  readonly hasChatTemplate: boolean;
}

export interface TokenLogprob {
  readonly id: number;
  /** The token's own text; `bytes:\xe6`-style where it is not valid UTF-8 by itself, so that texts stay unique keys. */
  readonly text: string;
  /** null for the first token of a prompt. */
  readonly logprob: number | null;
  /** Best first, at most the number asked for. */
  readonly top: readonly { id: number; text: string; logprob: number }[];
}

export interface GenerateRequest {
  readonly prompt: string | readonly number[];
  /** For text prompts: whether the tokenizer's own BOS (post-processor) is added. Special tokens in the text are parsed. */
  readonly addSpecialTokens: boolean;
  /** 0: only the prompt is scored. */
  readonly maxTokens: number;
  /** 0: greedy. */
  readonly temperature: number;
  /** 0: no limit. */
  readonly topK: number;
  /** 1: no limit. */
  readonly topP: number;
  /** Same seed, same text. Undefined: drawn at random. */
  readonly seed?: number;
  readonly stop: readonly string[];
  /** Undefined: none; n ≥ 0: the token's own, and the n likeliest. */
  readonly logprobs?: number;
  /** Score the prompt as well (needs `logprobs` to be of use). */
  readonly echo: boolean;
  /** False: the end-of-text token does not end the sequence (vLLM's ignore_eos). */
  readonly ignoreEos: boolean;
  readonly logitBias: readonly (readonly [id: number, bias: number])[];
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  /** null: dense. */
  readonly weights: TaskWeights | null;
}

export type FinishReason = 'stop' | 'length';

/** Events of one sequence, in this order: prompt, then any number of delta, then done. */
export type GenerateEvent =
  | {
      readonly type: 'prompt';
      readonly ids: readonly number[];
      readonly text: string;
      readonly tokens: readonly TokenLogprob[];
    }
  /** Text that can be shown: whole UTF-8 characters, nothing that may still become a stop string. May be empty when tokens are not. */
  | { readonly type: 'delta'; readonly text: string; readonly tokens: readonly TokenLogprob[] }
  | {
      readonly type: 'done';
      readonly finishReason: FinishReason;
      readonly promptTokens: number;
      readonly completionTokens: number;
      readonly timings: { readonly queuedMs: number; readonly prefillMs: number; readonly decodeMs: number };
    };

export interface EvaluateRequest {
  /** Documents, tokenised apart and joined by the separator. */
  readonly documents: readonly string[];
  /** Windows of 256 tokens to score; undefined: as many as the text fills. */
  readonly windows?: number;
  readonly windowLength: number;
  /** Token after each document; undefined: the model's EOS. */
  readonly separator?: number;
  /** Add the tokenizer's BOS to each document where it has one. */
  readonly bos: boolean;
  readonly weights: TaskWeights | null;
}

export interface EvaluateResult {
  readonly tokens: number;
  /** Mean negative log-likelihood, nats a token. */
  readonly nll: number;
  /** exp(nll). */
  readonly ppl: number;
}

export interface EngineStats {
  readonly running: number;
  readonly waiting: number;
  readonly kvBytes: number;
  readonly kvBudgetBytes: number;
}

/** The engine as the rest of the server sees it. Implemented by engine-client.ts over a worker thread. */
export interface Engine {
  readonly model: ModelInfo;
  /** Present where the model runs on a GPU. */
  readonly device?: DeviceMemory;
  /**
   * Queues a sequence. Throws ServerError: context_length_exceeded (numbers in the sentence), queue_full, invalid_request
   * (token id outside the vocabulary). Aborting the signal frees the sequence within one step and ends the iteration with the
   * signal's reason. The weights in the request must stay leased until the iteration has ended.
   */
  generate(request: GenerateRequest, signal: AbortSignal): AsyncIterableIterator<GenerateEvent>;
  /** Perplexity as shared/reference/maskllm_torch.py defines it. Runs between other sequences' steps. */
  evaluate(request: EvaluateRequest, signal: AbortSignal): Promise<EvaluateResult>;
  tokenize(text: string, addSpecialTokens: boolean): Promise<number[]>;
  detokenize(ids: readonly number[]): Promise<string>;
  /** Renders the model's chat template. Throws ServerError `unsupported` when it has none or uses more than we support. */
  renderChat(messages: readonly { role: string; content: string }[]): Promise<string>;
  stats(): EngineStats;
  /** Rejects what still waits with `shutting_down`, lets running sequences end until the deadline, then stops the worker. */
  close(deadlineMs: number): Promise<void>;
}
