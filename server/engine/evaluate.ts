/**
 * Perplexity as shared by the yardsticks: documents are tokenised apart (BOS where the tokenizer adds one), each followed by the separator, concatenated;
 * the stream is cut into windows of `windowLength` inputs whose targets are the next tokens, no context crosses a window, perplexity = exp(mean NLL).
 */
import { native } from '../../kernels/index.js';
import { ServerError } from '../errors.js';
import { KvCache } from './kv-cache.js';
import { CHUNK_TOKENS, HEAD_ROWS } from './llama.js';
import type { Model } from './model.js';
import type { EvaluateRequest, EvaluateResult, TaskWeights } from './types.js';

export interface StreamSettings {
  /** Token after each document; undefined: the model's EOS. */
  readonly separator?: number;
  /** Add the tokenizer's BOS to each document where it has one. */
  readonly bos: boolean;
  /** Stop once this many tokens are there. */
  readonly limit?: number;
}

/** The documents as one stream of token ids. */
export function tokenStream(model: Model, documents: Iterable<string>, settings: StreamSettings): Int32Array {
  const ids: number[] = [];
  for (const document of tokenised(model, documents, settings)) for (const id of document) ids.push(id);
  return Int32Array.from(ids);
}

/** The ids of one document after another, each with its separator. */
function* tokenised(
  { tokenizer, config, info }: Model,
  documents: Iterable<string>,
  settings: StreamSettings,
): Generator<readonly number[]> {
  if (!tokenizer) {
    throw new ServerError('unsupported', `expected a tokenizer.json in ${info.directory} to read text with`);
  }
  const separator = settings.separator ?? config.eosIds[0];
  if (separator === undefined || separator < 0 || separator >= config.vocab) {
    const came = separator ?? 'none (config.json names no eos_token_id)';
    const message = `expected a separator token id below ${config.vocab} but received ${came}`;
    throw new ServerError('invalid_request', message, { param: 'separator' });
  }
  let tokens = 0;
  for (const document of documents) {
    const ids = [...tokenizer.encode(document, settings.bos), separator];
    tokens += ids.length;
    yield ids;
    if (settings.limit !== undefined && tokens >= settings.limit) return;
  }
}

/** A run over one request: `step` reads a document or scores a window; `result` is there when it returned true. */
export class Evaluation {
  private readonly cache: KvCache;
  private readonly unread: Iterator<readonly number[]>;
  private readonly ids: number[] = [];
  private stream: Int32Array | undefined;
  private windows = 0;
  private window = 0;
  private nll = 0;

  constructor(
    private readonly model: Model,
    private readonly request: EvaluateRequest,
  ) {
    const { windowLength, windows, separator, bos, documents } = request;
    this.unread = tokenised(model, documents, {
      bos,
      ...(separator === undefined ? {} : { separator }),
      ...(windows === undefined ? {} : { limit: windows * windowLength + 1 }),
    });
    this.cache = new KvCache(model.config, windowLength, model.kvType);
  }

  get progress(): { readonly done: number; readonly of: number } {
    return { done: this.window, of: this.windows };
  }

  /** One document or window; true after the last window. Throws ServerError when the text is too short. */
  step(): boolean {
    if (!this.stream) {
      this.read();
      return false;
    }
    const { windowLength, weights } = this.request;
    const first = this.window * windowLength;
    this.nll += windowNll(this.model, this.stream.subarray(first, first + windowLength + 1), this.cache, weights);
    this.window++;
    return this.window >= this.windows;
  }

  result(): EvaluateResult {
    const tokens = this.window * this.request.windowLength;
    const nll = this.nll / tokens;
    return { tokens, nll, ppl: Math.exp(nll) };
  }

  dispose(): void {
    this.cache.dispose();
  }

  private read(): void {
    const next = this.unread.next();
    if (next.done !== true) {
      for (const id of next.value) this.ids.push(id);
      return;
    }
    const { windowLength, windows } = this.request;
    const available = Math.floor((this.ids.length - 1) / windowLength);
    if (available < 1) {
      const message = `expected text of more than ${windowLength} tokens to evaluate but received ${this.ids.length}`;
      throw new ServerError('invalid_request', message, { param: 'documents' });
    }
    this.windows = Math.min(windows ?? available, available);
    this.stream = Int32Array.from(this.ids);
  }
}

/** Runs a whole request at once: the command line's `eval --local`. */
export function evaluate(
  model: Model,
  request: EvaluateRequest,
  onProgress?: (progress: { readonly done: number; readonly of: number }) => void,
): EvaluateResult {
  const evaluation = new Evaluation(model, request);
  try {
    while (!evaluation.step()) onProgress?.(evaluation.progress);
    return evaluation.result();
  } finally {
    evaluation.dispose();
  }
}

/** Σ −log p over the targets ids[1…] of inputs ids[…−1], from an empty context. */
export function windowNll(model: Model, ids: Int32Array, cache: KvCache, task: TaskWeights | null): number {
  const { forward, config } = model;
  const inputs = ids.length - 1;
  const out = new Float64Array(1);
  let nll = 0;
  cache.length = 0;
  for (let start = 0; start < inputs; start += CHUNK_TOKENS) {
    const tokens = Math.min(CHUNK_TOKENS, inputs - start);
    forward.run(ids.subarray(start, start + tokens), cache, task);
    for (let first = 0; first < tokens; first += HEAD_ROWS) {
      const rows = Math.min(HEAD_ROWS, tokens - first);
      forward.head(first, rows);
      for (let row = 0; row < rows; row++) {
        const target = ids.subarray(start + first + row + 1, start + first + row + 2);
        native.logprobs(forward.logits, row, config.vocab, target, out);
        nll -= out[0] as number;
      }
    }
  }
  return nll;
}
