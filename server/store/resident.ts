/** What the resident cache keeps of a task in memory, and of one on its way in. */
import type { Digest } from '../../codec/mask-set.js';
import type { TaskWeights } from '../engine/types.js';
import type { ServerError } from '../errors.js';
import type { LoadTimes } from './loader-worker.js';

/** The compacted task that a patched one stands on, held in memory until it is released. */
export interface HeldParent {
  readonly digest: Digest;
  readonly weights: TaskWeights;
  /** Once. */
  readonly release: () => void;
}

export interface Resident {
  readonly weights: TaskWeights;
  readonly loadMs: number;
  readonly times: LoadTimes;
  /** Present if it is patched: released after its patches are freed. */
  readonly parent: HeldParent | undefined;
  leases: number;
  /** Its task is gone: its nibbles are not worth keeping. */
  forgotten: boolean;
}

/** A task on its way in. */
export interface Load {
  /** Acquires that wait for it and have not given up. */
  waiters: number;
  /** Set when it is in memory; every waiter then has a lease on it. */
  resident: Resident | undefined;
  /** Present while it waits for room: ends it with an error. */
  fail: ((error: ServerError) => void) | undefined;
  /** evict() was called meanwhile. */
  evicted: boolean;
  /** It is to have matrices of its own: others are patched onto it. */
  readonly whole: boolean;
  /** It waits for another task to be patched onto. */
  awaitsParent: boolean;
  /** Resolves when it has ended, well or not. */
  settled: Promise<void>;
}

export function newLoad(whole: boolean): Load {
  return {
    waiters: 0,
    resident: undefined,
    fail: undefined,
    evicted: false,
    whole,
    awaitsParent: false,
    settled: Promise.resolve(),
  };
}

export function loadedResident(
  weights: TaskWeights,
  loadMs: number,
  times: LoadTimes,
  parent: HeldParent | undefined,
): Resident {
  return { weights, loadMs, times, parent, leases: 0, forgotten: false };
}

export function sumBytes(residents: Iterable<Resident>): number {
  let bytes = 0;
  for (const { weights } of residents) bytes += weights.bytes;
  return bytes;
}
