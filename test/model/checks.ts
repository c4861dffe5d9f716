/** The bars of "parity with transformers": each check compares the engine with a reference number and says whether it holds. */
import { evaluate } from '../../server/engine/evaluate.js';
import type { Model } from '../../server/engine/model.js';
import type { TaskWeights } from '../../server/engine/types.js';
import { argmax, greedy, logitsOf, promptLogprobs } from './in-process.js';
import type { EvaluationSettings, GreedyCase, Perplexity } from './reference.js';

/** A reference token may lose to another one where the reference itself was this close to a tie, in nats. */
export const NEAR_TIE = 0.02;

export interface Check {
  readonly what: string;
  readonly ours: string;
  readonly reference: string;
  readonly bar: string;
  readonly passed: boolean;
}

/** Perplexity of `documents` within `tolerance` (a fraction) of the reference's. */
export function checkPerplexity(
  model: Model,
  what: string,
  documents: readonly string[],
  settings: EvaluationSettings,
  reference: Pick<Perplexity, 'ppl'> & Partial<Perplexity>,
  tolerance: number,
  weights: TaskWeights | null = null,
): Check {
  const { window, windows, bos, separator } = settings;
  const found = evaluate(model, { documents, windows, windowLength: window, separator, bos, weights });
  const difference = found.ppl / reference.ppl - 1;
  return {
    what,
    ours: `${found.ppl.toFixed(4)} (${signed(100 * difference, 3)}%)`,
    reference: reference.ppl.toFixed(4),
    bar: `within ${100 * tolerance}%`,
    passed: Math.abs(difference) <= tolerance && found.tokens === (reference.tokens ?? found.tokens),
  };
}

/** Where a step's token differs from the reference's: at a near-tie only, or the check fails. */
export interface Departure {
  readonly step: number;
  readonly margin: number;
}

/** First step of a free-running continuation that leaves the reference's. */
export function departure(ours: readonly number[], reference: GreedyCase): Departure | undefined {
  const step = reference.continuation.findIndex((id, i) => ours[i] !== id);
  return step < 0 ? undefined : { step, margin: reference.margins[step] as number };
}

/** Every step whose likeliest token differs when all the reference's tokens before it are given. */
export function forcedDepartures(model: Model, reference: GreedyCase): Departure[] {
  const { vocab } = model.config;
  const { ids, continuation, margins } = reference;
  const logits = logitsOf(model, [...ids, ...continuation.slice(0, -1)]);
  return continuation.flatMap((id, step) => {
    const row = ids.length - 1 + step;
    const ours = argmax(logits.subarray(row * vocab, (row + 1) * vocab));
    return ours === id ? [] : [{ step, margin: margins[step] as number }];
  });
}

/** The continuation, decoded freely and with the reference's tokens given, leaves the reference at near-ties only. */
export function checkGreedy(model: Model, reference: GreedyCase): Check {
  const { ids, continuation, prompt } = reference;
  const free = departure(greedy(model, ids, continuation.length), reference);
  const forced = forcedDepartures(model, reference);
  const departures = free ? [free, ...forced] : forced;
  return {
    what: `greedy after ${JSON.stringify(prompt.length > 28 ? `${prompt.slice(0, 27)}…` : prompt)}`,
    ours: free ? `leaves at token ${free.step + 1}` : `${continuation.length} tokens equal`,
    reference: departures.length > 0 ? `margins there: ${departures.map((d) => d.margin).join(', ')}` : '',
    bar: `equal, or margin < ${NEAR_TIE}`,
    passed: departures.every(({ margin }) => margin < NEAR_TIE),
  };
}

/** The model's tokenizer makes the reference's ids of every prompt. */
export function checkTokens(model: Model, cases: readonly GreedyCase[], bos: boolean): Check {
  const equal = cases.filter(({ prompt, ids }) => {
    const ours = model.tokenizer?.encode(prompt, bos) ?? [];
    return ours.length === ids.length && ours.every((id, i) => id === ids[i]);
  });
  return {
    what: 'token ids of the prompts',
    ours: `${equal.length} of ${cases.length} equal`,
    reference: 'Rust tokenizers',
    bar: 'all equal',
    passed: equal.length === cases.length,
  };
}

/** Largest difference of a prompt token's log-probability, nats. */
export function checkLogprobs(model: Model, cases: readonly GreedyCase[], tolerance: number): Check {
  let worst = 0;
  let tokens = 0;
  for (const { ids, logprobs } of cases) {
    if (!logprobs) continue;
    const ours = promptLogprobs(model, ids);
    logprobs.forEach((expected, i) => {
      if (expected === null) return;
      worst = Math.max(worst, Math.abs((ours[i] as number) - expected));
      tokens++;
    });
  }
  return {
    what: `log-probabilities of ${tokens} prompt tokens`,
    ours: `largest difference ${worst.toExponential(1)} nats`,
    reference: '',
    bar: `within ${tolerance} nats`,
    passed: tokens > 0 && worst <= tolerance,
  };
}

/** The templated question gets the reference's answer, up to and with the end token. */
export function checkChat(model: Model, reference: GreedyCase & { readonly text: string }): Check {
  const ids = model.tokenizer?.encode(reference.prompt, false) ?? [];
  const answer = greedy(model, ids, reference.continuation.length);
  const text = model.tokenizer?.decode(answer) ?? '';
  const ended = model.info.eosIds.includes(answer.at(-1) as number);
  return {
    what: 'chat: the capital of France',
    ours: JSON.stringify(text) + (ended ? '' : ' without an end'),
    reference: JSON.stringify(reference.text),
    bar: 'equal',
    passed: text === reference.text && ended,
  };
}

function signed(value: number, digits: number): string {
  return `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(digits)}`;
}
