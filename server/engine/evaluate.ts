/**
 * Perplexity as shared by the yardsticks: documents are tokenised apart (BOS where the tokenizer adds one), each followed by the separator, concatenated;
 * the stream is cut into windows of `windowLength` inputs whose targets are the next tokens, no context crosses a window, perplexity = exp(mean NLL).
 */
import { native } from '../../kernels/index.js';
import { KvCache } from './kv-cache.js';
import { CHUNK_TOKENS, HEAD_ROWS } from './llama.js';
import type { Model } from './model.js';
import type { EvaluateRequest, EvaluateResult, TaskWeights } from './types.js';

/** The documents as one stream of token ids. Stops tokenising once `limit` tokens are there. */
export function tokenStream(
  model: Model,
  documents: Iterable<string>,
  options: { readonly separator?: number; readonly bos: boolean; readonly limit?: number },
): Int32Array {
  const { tokenizer, config } = model;
  if (!tokenizer) throw new Error(`expected a tokenizer.json in ${model.info.directory} to read text with`);
  const separator = options.separator ?? config.eosIds[0];
  if (separator === undefined || separator < 0 || separator >= config.vocab) {
    throw new Error(
      `expected a separator token id below ${config.vocab} but received ${separator ?? 'none (config.json names no eos_token_id)'}`,
    );
  }
  const ids: number[] = [];
  for (const document of documents) {
    for (const id of tokenizer.encode(document, options.bos)) ids.push(id);
    ids.push(separator);
    if (options.limit !== undefined && ids.length >= options.limit) break;
  }
  return Int32Array.from(ids);
}

/** A run over one request: `step` scores a window; `result` is there when it returned true. */
export class Evaluation {
  private readonly stream: Int32Array;
  private readonly windows: number;
  private readonly cache: KvCache;
  private window = 0;
  private nll = 0;

  constructor(
    private readonly model: Model,
    private readonly request: EvaluateRequest,
  ) {
    const { windowLength, windows } = request;
    const limit = windows === undefined ? undefined : windows * windowLength + 1;
    this.stream = tokenStream(model, request.documents, {
      bos: request.bos,
      ...(request.separator === undefined ? {} : { separator: request.separator }),
      ...(limit === undefined ? {} : { limit }),
    });
    const available = Math.floor((this.stream.length - 1) / windowLength);
    this.windows = Math.min(windows ?? available, available);
    if (this.windows < 1) {
      throw new Error(
        `expected text of more than ${windowLength} tokens to evaluate but received ${this.stream.length}`,
      );
    }
    this.cache = new KvCache(model.config, windowLength);
  }

  get progress(): { readonly done: number; readonly of: number } {
    return { done: this.window, of: this.windows };
  }

  /** Scores one window; true when it was the last. */
  step(): boolean {
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
