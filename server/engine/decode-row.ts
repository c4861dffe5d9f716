/** What a decoding step takes of each sequence. */
import type { KvCache } from './kv-cache.js';
import type { TaskWeights } from './types.js';

export interface DecodeRow {
  /** The token that goes in. */
  readonly id: number;
  /** Of the sequence: takes the token's keys and values. */
  readonly cache: KvCache;
  /** Whose weights; null: the dense ones. */
  readonly task: TaskWeights | null;
}
