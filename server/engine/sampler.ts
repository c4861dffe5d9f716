/** What of a request says how its tokens are chosen: penalties and biases, then greedy, or temperature, top-k, top-p and one seeded draw. */
import { native, type Handle } from '../../kernels/index.js';
import type { Draw } from './draws.js';
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
   * How the next token is chosen: with biases and OpenAI's presence and frequency penalties (over the tokens sampled so far). They leave the
   * logits as they were: reported log-probabilities are the model's own, as vLLM's are.
   */
  draw(): Draw {
    const { temperature, topK, topP } = this.request;
    const uniform = temperature === 0 ? 0 : this.random.uniform();
    return { temperature, topK, topP, uniform, deltas: this.deltas() };
  }

  /** `id` came of it. */
  took(id: number): void {
    this.counts.set(id, (this.counts.get(id) ?? 0) + 1);
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
