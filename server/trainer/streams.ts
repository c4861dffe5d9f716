/** Documents → token streams to train on and windows held out: split by document, seeded. Batches are drawn by (seed, step), so that a resumed run sees the same ones. */
import { tokenStream } from '../engine/evaluate.js';
import type { Model } from '../engine/model.js';
import { Random, shuffled } from '../engine/random.js';

export interface StreamOptions {
  readonly separator?: number;
  readonly bos: boolean;
  /** Tokens to read at most, for training, of each source. */
  readonly limit?: number;
}

export interface Split {
  /** Tokens to train on. */
  readonly train: Int32Array;
  /** Tokens of documents that are not trained on. */
  readonly heldOut: Int32Array;
}

/** Share of the documents that is held out, and the least number of them. */
const HELD_OUT_SHARE = 0.05;

/**
 * Tokenises a source and holds out documents for validation: a twentieth, one at least where there are two. A source of one document is cut
 * at nineteen twentieths of its tokens.
 */
export function splitStream(model: Model, documents: readonly string[], seed: number, options: StreamOptions): Split {
  const order = shuffled(documents, new Random(seed));
  if (order.length === 1) {
    const stream = tokenStream(model, order, options);
    const cut = Math.floor(stream.length * (1 - HELD_OUT_SHARE));
    return { train: stream.subarray(0, cut), heldOut: stream.subarray(cut) };
  }
  const count = Math.max(1, Math.round(order.length * HELD_OUT_SHARE));
  const { limit, ...unlimited } = options;
  const heldOutOptions = limit === undefined ? unlimited : { ...unlimited, limit: Math.ceil(limit * HELD_OUT_SHARE) };
  return {
    train: tokenStream(model, order.slice(count), options),
    heldOut: tokenStream(model, order.slice(0, count), heldOutOptions),
  };
}

export interface Batch {
  /** (B·T) inputs, sequence after sequence */
  readonly ids: Int32Array;
  /** (B·T) the token after each input */
  readonly targets: Int32Array;
}

/** Sequences of a batch that come from the same streams. */
export interface BatchPart {
  readonly streams: readonly Int32Array[];
  readonly sequences: number;
}

/** Sequences of T tokens, part after part: for each a stream of its part is drawn, all alike, then a place in it. Depends on seed and step alone. */
export function drawBatch(parts: readonly BatchPart[], tokens: number, seed: number, step: number): Batch {
  const random = new Random(seed * 2 ** 20 + step);
  const rows = tokens * parts.reduce((sum, { sequences }) => sum + sequences, 0);
  const [ids, targets] = [new Int32Array(rows), new Int32Array(rows)];
  let at = 0;
  for (const { streams, sequences } of parts) {
    for (let b = 0; b < sequences; b++, at += tokens) {
      const stream = streams[Math.floor(random.uniform() * streams.length)] as Int32Array;
      const start = Math.floor(random.uniform() * (stream.length - tokens));
      ids.set(stream.subarray(start, start + tokens), at);
      targets.set(stream.subarray(start + 1, start + tokens + 1), at);
    }
  }
  return { ids, targets };
}

/** Throws one line when a source is too short to draw sequences of `tokens` from. */
export function requireLength(streams: readonly Int32Array[], names: readonly string[], tokens: number): void {
  streams.forEach((stream, i) => {
    if (stream.length > tokens) return;
    throw new Error(
      `expected more than ${tokens} tokens of training text in ${names[i] ?? 'each source'}, but it has ${stream.length}; add text, or lower --seq`,
    );
  });
}
