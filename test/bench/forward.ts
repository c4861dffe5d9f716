/** Prefill and decode speed of one model, dense and through a mask, in alternating runs of one process. */
import type { Model } from '../../server/engine/model.js';
import { KvCache } from '../../server/engine/kv-cache.js';
import { CHUNK_TOKENS } from '../../server/engine/llama.js';
import type { TaskWeights } from '../../server/engine/types.js';

export interface Rates {
  /** Tokens a second, medians. */
  readonly dense: number;
  readonly masked: number;
  /** masked / dense, median of the runs' ratios. */
  readonly ratio: number;
}

export interface ForwardFigures {
  readonly prefill: Rates;
  readonly decode: Rates;
}

export interface ForwardSettings {
  readonly prefillTokens: number;
  readonly promptTokens: number;
  readonly decodeTokens: number;
  readonly runs: number;
}

export function measureForward(model: Model, task: TaskWeights, settings: ForwardSettings): ForwardFigures {
  const { prefillTokens, promptTokens, decodeTokens, runs } = settings;
  const capacity = Math.min(model.info.contextLength, Math.max(prefillTokens, promptTokens + decodeTokens));
  const cache = new KvCache(model.config, capacity);
  const prefill = (weights: TaskWeights | null): number => {
    cache.length = 0;
    return rate(prefillTokens, () => feed(model, cache, prefillTokens, weights));
  };
  const decode = (weights: TaskWeights | null): number => {
    cache.length = 0;
    feed(model, cache, promptTokens, weights);
    return rate(decodeTokens, () => {
      for (let i = 0; i < decodeTokens; i++) step(model, cache, Int32Array.of(tokenAt(model, i)), weights);
    });
  };
  try {
    return { prefill: alternate(prefill, task, runs), decode: alternate(decode, task, runs) };
  } finally {
    cache.dispose();
  }
}

/** One uncounted run of each, then A B A B … */
function alternate(measure: (weights: TaskWeights | null) => number, task: TaskWeights, runs: number): Rates {
  measure(null);
  measure(task);
  const pairs = Array.from({ length: runs }, () => ({ dense: measure(null), masked: measure(task) }));
  return {
    dense: median(pairs.map((pair) => pair.dense)),
    masked: median(pairs.map((pair) => pair.masked)),
    ratio: median(pairs.map((pair) => pair.masked / pair.dense)),
  };
}

function feed(model: Model, cache: KvCache, tokens: number, weights: TaskWeights | null): void {
  const ids = Int32Array.from({ length: tokens }, (_, i) => tokenAt(model, i));
  for (let start = 0; start < tokens; start += CHUNK_TOKENS) {
    step(model, cache, ids.subarray(start, start + CHUNK_TOKENS), weights);
  }
}

/** A chunk and the head of its last token, as serving does. */
function step(model: Model, cache: KvCache, ids: Int32Array, weights: TaskWeights | null): void {
  model.forward.run(ids, cache, weights);
  model.forward.head(ids.length - 1, 1);
}

function tokenAt(model: Model, index: number): number {
  return (index * 7919 + 13) % model.info.vocabularySize;
}

function rate(tokens: number, run: () => void): number {
  const started = performance.now();
  run();
  return (tokens / (performance.now() - started)) * 1000;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}
