/** The engine's forward pass driven directly, without threads or a server: logits of given tokens and greedy continuations. */
import { native } from '../../kernels/index.js';
import { KvCache } from '../../server/engine/kv-cache.js';
import { CHUNK_TOKENS, HEAD_ROWS } from '../../server/engine/llama.js';
import type { Model } from '../../server/engine/model.js';

/** How a prompt reaches the model: tokens of each chunk, repeated until the prompt is through. */
export type Chunks = readonly number[];

/** Everything in as few chunks as the engine takes. */
export const WHOLE: Chunks = [CHUNK_TOKENS];
/** As decoding does it. */
export const TOKEN_BY_TOKEN: Chunks = [1];

/** Logits (T, V) of every position of `ids`, computed on an empty context in the given chunks. */
export function logitsOf(model: Model, ids: readonly number[], chunks: Chunks = WHOLE): Float32Array {
  const { vocab } = model.config;
  const logits = new Float32Array(ids.length * vocab);
  withCache(model, ids.length, (cache) => {
    for (const { first, tokens } of split(ids.length, chunks)) {
      model.forward.run(Int32Array.from(ids.slice(first, first + tokens)), cache, null);
      for (let row = 0; row < tokens; row += HEAD_ROWS) {
        const rows = Math.min(HEAD_ROWS, tokens - row);
        model.forward.head(row, rows);
        native.read(model.forward.logits, 0, logits.subarray((first + row) * vocab, (first + row + rows) * vocab));
      }
    }
  });
  return logits;
}

/** The likeliest token after `prompt`, `steps` times, each decoded from the cache as the engine does. */
export function greedy(model: Model, prompt: readonly number[], steps: number): number[] {
  const { forward, config } = model;
  const found: number[] = [];
  withCache(model, prompt.length + steps, (cache) => {
    let last = 0;
    for (const { first, tokens } of split(prompt.length, WHOLE)) {
      forward.run(Int32Array.from(prompt.slice(first, first + tokens)), cache, null);
      last = tokens - 1;
    }
    while (found.length < steps) {
      forward.head(last, 1);
      const id = native.argmax(forward.logits, 0, config.vocab);
      found.push(id);
      forward.run(Int32Array.of(id), cache, null);
      last = 0;
    }
  });
  return found;
}

/** Log-probability of each token of `ids` given those before it, from fp32 logits in fp64; null for the first. */
export function promptLogprobs(model: Model, ids: readonly number[]): (number | null)[] {
  const { vocab } = model.config;
  const logits = logitsOf(model, ids);
  return ids.map((id, position) => {
    if (position === 0) return null;
    const row = logits.subarray((position - 1) * vocab, position * vocab);
    return (row[id] as number) - logSumExp(row);
  });
}

/** Index of the largest value, the lowest of equals. */
export function argmax(row: Float32Array): number {
  let best = 0;
  for (let i = 1; i < row.length; i++) if ((row[i] as number) > (row[best] as number)) best = i;
  return best;
}

function logSumExp(row: Float32Array): number {
  const largest = row[argmax(row)] as number;
  let sum = 0;
  for (const value of row) sum += Math.exp(value - largest);
  return largest + Math.log(sum);
}

function withCache(model: Model, capacity: number, use: (cache: KvCache) => void): void {
  const cache = new KvCache(model.config, capacity);
  try {
    use(cache);
  } finally {
    cache.dispose();
  }
}

function* split(length: number, chunks: Chunks): Generator<{ first: number; tokens: number }> {
  for (let first = 0, i = 0; first < length; i++) {
    const tokens = Math.min(chunks[i % chunks.length] as number, CHUNK_TOKENS, length - first);
    yield { first, tokens };
    first += tokens;
  }
}
