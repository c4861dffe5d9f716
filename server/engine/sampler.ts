/** A row of logits → the next token: penalties and biases, then greedy, or temperature, top-k, top-p and one seeded draw. */
import { native, type Handle } from '../../kernels/index.js';
import { Random } from './random.js';
import type { ModelTokenizer } from './tokenizer.js';
import type { GenerateRequest, TokenLogprob } from './types.js';

export class Sampler {
  private readonly random: Random;
  private readonly counts = new Map<number, number>();

  constructor(private readonly request: GenerateRequest) {
    this.random = new Random(request.seed ?? Math.floor(Math.random() * Number.MAX_SAFE_INTEGER));
  }

  /**
   * Applies biases and OpenAI's presence and frequency penalties (over the tokens sampled so far), chooses, and leaves the row as it was:
   * reported log-probabilities are the model's own, as vLLM's are.
   */
  next(logits: Handle, row: number, vocab: number): number {
    const deltas = this.deltas();
    const id = deltas.size === 0 ? this.choose(logits, row, vocab) : this.chooseAdjusted(logits, row, vocab, deltas);
    this.counts.set(id, (this.counts.get(id) ?? 0) + 1);
    return id;
  }

  private choose(logits: Handle, row: number, vocab: number): number {
    const { temperature, topK, topP } = this.request;
    if (temperature === 0) return native.argmax(logits, row, vocab);
    return native.sample(logits, row, vocab, temperature, topK, topP, this.random.uniform());
  }

  private chooseAdjusted(logits: Handle, row: number, vocab: number, deltas: ReadonlyMap<number, number>): number {
    const saved = new Float32Array(vocab);
    native.read(logits, row * saved.byteLength, saved);
    native.addSparse(logits, row, vocab, Int32Array.from(deltas.keys()), Float32Array.from(deltas.values()));
    const id = this.choose(logits, row, vocab);
    native.write(logits, row * saved.byteLength, saved);
    return id;
  }

  private deltas(): Map<number, number> {
    const { logitBias, presencePenalty, frequencyPenalty } = this.request;
    const deltas = new Map<number, number>(logitBias);
    if (presencePenalty === 0 && frequencyPenalty === 0) return deltas;
    for (const [id, count] of this.counts) {
      deltas.set(id, (deltas.get(id) ?? 0) - presencePenalty - frequencyPenalty * count);
    }
    return deltas;
  }
}

/** Log-probability of `id` under a row's softmax, and the `top` likeliest. */
export function tokenLogprob(
  logits: Handle,
  row: number,
  vocab: number,
  id: number,
  top: number,
  tokenizer: ModelTokenizer | undefined,
): TokenLogprob {
  const own = new Float64Array(1);
  native.logprobs(logits, row, vocab, Int32Array.of(id), own);
  return {
    id,
    text: label(tokenizer, id),
    logprob: own[0] as number,
    top: topLogprobs(logits, row, vocab, top, tokenizer),
  };
}

export function topLogprobs(
  logits: Handle,
  row: number,
  vocab: number,
  top: number,
  tokenizer: ModelTokenizer | undefined,
): TokenLogprob['top'] {
  const count = Math.min(top, vocab);
  if (count === 0) return [];
  const ids = new Int32Array(count);
  const values = new Float64Array(count);
  native.topLogprobs(logits, row, vocab, ids, values);
  return Array.from(ids, (id, i) => ({ id, text: label(tokenizer, id), logprob: values[i] as number }));
}

export function label(tokenizer: ModelTokenizer | undefined, id: number): string {
  return tokenizer?.label(id) ?? `token:${id}`;
}
