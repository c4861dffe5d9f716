/** One request on its way through the engine: prefill in chunks, then a token a step, which sequences take together. */
import type { DecodeRow } from './decode-row.js';
import { HEAD_ROWS } from './llama.js';
import { Detokenizer } from './detokenizer.js';
import type { Draw } from './draws.js';
import { KvCache, kvCacheBytes } from './kv-cache.js';
import type { Model } from './model.js';
import { label, Sampler, tokenLogprob } from './sampler.js';
import type { FinishReason, GenerateEvent, GenerateRequest, TokenLogprob } from './types.js';

export class Sequence {
  done = false;
  private readonly cache: KvCache;
  private readonly sampler: Sampler;
  private readonly detokenizer: Detokenizer | undefined;
  private readonly scored: TokenLogprob[] = [];
  private prefilled = 0;
  private generated = 0;
  /** Sampled, not yet run. */
  private pending: number | undefined;
  private startedAt: number | undefined;
  private prefillMs = 0;

  /** `ids`: the checked prompt. `emit` is called in the order types.ts promises. */
  constructor(
    private readonly model: Model,
    private readonly request: GenerateRequest,
    private readonly ids: Int32Array,
    private readonly queuedAt: number,
    private readonly emit: (event: GenerateEvent) => void,
  ) {
    this.cache = new KvCache(model.config, Sequence.positions(ids.length, request), model.kvType);
    this.sampler = new Sampler(request);
    this.detokenizer = model.tokenizer && new Detokenizer(model.tokenizer, request.stop);
  }

  /** Positions that a request needs: the last sampled token is never run. */
  static positions(promptTokens: number, request: GenerateRequest): number {
    return promptTokens + Math.max(0, request.maxTokens - 1);
  }

  static kvBytes(model: Model, promptTokens: number, request: GenerateRequest): number {
    return kvCacheBytes(model.config, Sequence.positions(promptTokens, request), model.kvType);
  }

  /** The prompt has been run: what is left is decoding, by `next` and `take`. */
  get decoding(): boolean {
    return this.prefilled === this.ids.length;
  }

  /** One prefill chunk. With the last, samples the first token, or sets `done` where none is asked for. */
  step(): void {
    this.startedAt ??= this.begin();
    this.prefill();
  }

  /** The token to be run next, for Forward.decode. */
  next(): DecodeRow {
    return { id: this.pending as number, cache: this.cache, task: this.request.weights };
  }

  /** How the token after `next` is chosen. */
  draw(): Draw {
    return this.sampler.draw();
  }

  /** Takes `id`, which was drawn from row `row` of the logits. Sets `done` after the last token. */
  take(row: number, id: number): void {
    const { forward, config, tokenizer } = this.model;
    this.sampler.took(id);
    const top = this.request.logprobs;
    const tokens = top === undefined ? [] : [tokenLogprob(forward.logits, row, config.vocab, id, top, tokenizer)];
    this.generated++;
    this.pending = id;
    const ended = !this.request.ignoreEos && config.eosIds.includes(id);
    let text = ended ? '' : (this.detokenizer?.push(id) ?? '');
    const reason = this.finishReason(ended);
    if (reason) text += this.detokenizer?.flush() ?? '';
    if (text !== '' || tokens.length > 0) this.emit({ type: 'delta', text, tokens });
    if (reason) this.finish(reason);
  }

  dispose(): void {
    this.cache.dispose();
  }

  private get scoresPrompt(): boolean {
    return this.request.echo && this.request.logprobs !== undefined;
  }

  private begin(): number {
    if (!this.scoresPrompt) this.emitPrompt();
    return performance.now();
  }

  private prefill(): void {
    const chunk = this.ids.subarray(this.prefilled, this.prefilled + this.model.forward.chunkTokens);
    this.model.forward.run(chunk, this.cache, this.request.weights);
    if (this.scoresPrompt) this.scoreChunk(chunk.length);
    this.prefilled += chunk.length;
    if (this.prefilled < this.ids.length) return;
    this.prefillMs = performance.now() - (this.startedAt as number);
    if (this.scoresPrompt) this.emitPrompt();
    if (this.request.maxTokens === 0) this.finish('length');
    else this.sampleFirst(chunk.length - 1);
  }

  private sampleFirst(row: number): void {
    const { forward } = this.model;
    forward.head(row, 1);
    this.take(0, forward.sample([this.draw()])[0] as number);
  }

  /** Row r of the chunk predicts the token after it; the last row's target is not in the prompt. */
  private scoreChunk(rows: number): void {
    const { forward, config, tokenizer } = this.model;
    if (this.prefilled === 0) {
      const id = this.ids[0] as number;
      this.scored.push({ id, text: label(tokenizer, id), logprob: null, top: [] });
    }
    for (let first = 0; first < rows; first += HEAD_ROWS) {
      const count = Math.min(HEAD_ROWS, rows - first);
      forward.head(first, count);
      for (let row = 0; row < count; row++) {
        const target = this.ids[this.prefilled + first + row + 1];
        if (target === undefined) return;
        const top = this.request.logprobs ?? 0;
        this.scored.push(tokenLogprob(forward.logits, row, config.vocab, target, top, tokenizer));
      }
    }
  }

  private emitPrompt(): void {
    const ids = Array.from(this.ids);
    this.emit({ type: 'prompt', ids, text: this.model.tokenizer?.decode(ids) ?? '', tokens: this.scored });
  }

  private finishReason(ended: boolean): FinishReason | undefined {
    if (ended || this.detokenizer?.stopped) return 'stop';
    return this.generated >= this.request.maxTokens ? 'length' : undefined;
  }

  private finish(finishReason: FinishReason): void {
    const startedAt = this.startedAt as number;
    this.done = true;
    this.emit({
      type: 'done',
      finishReason,
      promptTokens: this.ids.length,
      completionTokens: this.generated,
      timings: {
        queuedMs: startedAt - this.queuedAt,
        prefillMs: this.prefillMs,
        decodeMs: performance.now() - startedAt - this.prefillMs,
      },
    });
  }
}
