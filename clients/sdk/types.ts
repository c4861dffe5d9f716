/** What the server takes and gives, by its names (OpenAI's where they exist). GET /openapi.json is the reference. */

/** Which task a call is for; without it, the client's, and without that, the server's default. */
export interface TaskOption {
  /** `french`, `french@sha256:<digest>`, or `dense` for the unmasked base. */
  readonly task?: string;
}

export interface CallOptions {
  readonly signal?: AbortSignal;
}

interface SamplingRequest extends TaskOption {
  readonly model?: string;
  /** 0: greedy. Default 1. */
  readonly temperature?: number;
  readonly top_p?: number;
  readonly top_k?: number;
  readonly n?: number;
  readonly stop?: string | readonly string[];
  /** Same seed, same text. */
  readonly seed?: number;
  readonly logit_bias?: Readonly<Record<string, number>>;
  readonly presence_penalty?: number;
  readonly frequency_penalty?: number;
  readonly ignore_eos?: boolean;
  /** Streams only: `include_usage` adds a last chunk with the usage. */
  readonly stream_options?: { readonly include_usage?: boolean };
}

export interface CompletionRequest extends SamplingRequest {
  /** Text, token ids, or several of either. */
  readonly prompt: string | readonly string[] | readonly number[] | readonly (readonly number[])[];
  /** Default 16; 0 with `echo` and `logprobs` scores the prompt only. */
  readonly max_tokens?: number;
  readonly echo?: boolean;
  /** The token's own log-probability and those of the likeliest, up to 20. */
  readonly logprobs?: number;
  /** Whether a text prompt gets the tokenizer's own BOS. Default true. */
  readonly add_special_tokens?: boolean;
}

export interface Logprobs {
  readonly tokens: readonly string[];
  readonly token_logprobs: readonly (number | null)[];
  readonly top_logprobs: readonly (Readonly<Record<string, number>> | null)[];
  readonly text_offset: readonly number[];
}

export type FinishReason = 'stop' | 'length';

export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
}

interface Envelope {
  readonly id: string;
  readonly created: number;
  readonly model: string;
  readonly system_fingerprint: string;
}

export interface Completion extends Envelope {
  readonly object: 'text_completion';
  readonly choices: readonly {
    readonly index: number;
    readonly text: string;
    readonly logprobs: Logprobs | null;
    readonly finish_reason: FinishReason;
  }[];
  readonly usage: Usage;
}

export interface CompletionChunk extends Envelope {
  readonly object: 'text_completion';
  readonly choices: readonly {
    readonly index: number;
    readonly text: string;
    readonly logprobs: Logprobs | null;
    readonly finish_reason: FinishReason | null;
  }[];
  /** Of the whole answer, in the last chunk, if `stream_options.include_usage` asked for it. */
  readonly usage?: Usage | null;
}

export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

export interface ChatRequest extends SamplingRequest {
  readonly messages: readonly ChatMessage[];
  readonly max_tokens?: number;
  readonly logprobs?: boolean;
  readonly top_logprobs?: number;
}

export interface ChatLogprob {
  readonly token: string;
  readonly logprob: number;
  readonly bytes: readonly number[];
}

interface ChatLogprobs {
  readonly content: readonly (ChatLogprob & { readonly top_logprobs: readonly ChatLogprob[] })[];
}

export interface Chat extends Envelope {
  readonly object: 'chat.completion';
  readonly choices: readonly {
    readonly index: number;
    readonly message: { readonly role: 'assistant'; readonly content: string };
    readonly logprobs: ChatLogprobs | null;
    readonly finish_reason: FinishReason;
  }[];
  readonly usage: Usage;
}

export interface ChatChunk extends Envelope {
  readonly object: 'chat.completion.chunk';
  readonly choices: readonly {
    readonly index: number;
    readonly delta: { readonly role?: 'assistant'; readonly content?: string };
    readonly logprobs: ChatLogprobs | null;
    readonly finish_reason: FinishReason | null;
  }[];
  readonly usage?: Usage | null;
}

/** Where a task's weights are: on disk only, decoded in memory, on the way in, its changes beside a resident parent, or compacted in memory. */
export type Tier = 'cold' | 'warm' | 'loading' | 'patched' | 'resident';

export interface Model {
  /** `tiny` or `tiny:french`. */
  readonly id: string;
  readonly object: 'model';
  readonly created: number;
  readonly owned_by: string;
  readonly task: string;
  /** Digest of the base weights. */
  readonly base: string;
  /** null: dense. */
  readonly digest: string | null;
  readonly content: string | null;
  readonly parent: string | null;
  /** Of the mask's container. */
  readonly bytes: number;
  readonly residency: {
    readonly tier: Tier;
    readonly bytes: number;
    readonly cost_bytes: number;
    /** How long it took to come into memory; null where it is not there. */
    readonly load: { readonly ms: number; readonly decode_ms: number; readonly compact_ms: number } | null;
  };
  readonly context_length: number;
}

export interface Mask {
  readonly task: string;
  /** sha256 of the container, lower-case hex: the version. */
  readonly digest: string;
  /** Content digest: the same for every container of the same masks; what a child names as its parent. */
  readonly content: string;
  readonly base: string;
  readonly parent: string | null;
  /** What decoding takes beside the container: its parent, the base's weights. */
  readonly needs: { readonly parent: boolean; readonly weights: boolean };
  readonly bytes: number;
  readonly n: number;
  readonly m: number;
  readonly parameters: number;
  readonly bits_per_parameter: number;
  /** As it came with the model. */
  readonly shipped: boolean;
  /** ISO 8601. */
  readonly published_at: string;
  readonly versions: number;
}

export interface PublishedMask extends Mask {
  /** True: the task is new. False: it has one more version. */
  readonly created: boolean;
}

export interface MaskVersions {
  readonly task: string;
  /** What the name stands for now. */
  readonly digest: string;
  /** Newest first. */
  readonly data: readonly { readonly digest: string; readonly published_at: string; readonly current: boolean }[];
}

/** For compare-and-set: what the task must be for a change to happen; otherwise it throws `precondition_failed`. */
export interface ChangeOptions extends CallOptions {
  /** Only if its digest is this. */
  readonly ifMatch?: string;
}

export interface PublishOptions extends ChangeOptions {
  /** Only if there is no such task. */
  readonly ifAbsent?: boolean;
  /** sha256 of the bytes, hex: checked by the server before anything is published. */
  readonly digest?: string;
}

export interface DownloadOptions extends CallOptions {
  /** The first byte wanted, to go on with a broken download. */
  readonly from?: number;
  /** A mask that is coded against its parent, as a container that decodes by itself. */
  readonly flatten?: boolean;
}

export interface MaskDownload {
  /** sha256 of the whole container that `stream` brings, or is the end of. */
  readonly digest: string;
  /** The version that was asked for: the same digest, unless it was flattened. */
  readonly version: string;
  /** Length of `stream`. */
  readonly bytes: number;
  readonly stream: ReadableStream<Uint8Array>;
}

/** Bytes of a mask. A `Blob` (in Node: `fs.openAsBlob`) is sent without being read into memory. */
export type MaskBytes = Uint8Array | ArrayBuffer | Blob | ReadableStream<Uint8Array>;

export interface EvaluateRequest extends TaskOption {
  readonly documents: readonly string[];
  /** Default: as many as the text fills. */
  readonly windows?: number;
  /** Default 256. */
  readonly window_length?: number;
  /** Token id after each document; default: the model's end of text. */
  readonly separator?: number;
  /** Begin each document with the tokenizer's BOS, where it has one. Default true. */
  readonly bos?: boolean;
}

export interface Evaluation {
  readonly task: string;
  readonly tokens: number;
  /** Mean negative log-likelihood, nats a token. */
  readonly nll: number;
  /** exp(nll). */
  readonly ppl: number;
}

/** What the response's headers say of an answer. */
export interface Answered {
  readonly task: string;
  /** null: dense. */
  readonly maskDigest: string | null;
  readonly requestId: string;
}
