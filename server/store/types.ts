/** The registry and the resident cache: contracts. The disk registry is the first implementation; a database may be the second. */
import type { Readable } from 'node:stream';
import type { Needs } from '../../codec/context.js';
import type { Digest } from '../../codec/mask-set.js';
import type { TaskWeights } from '../engine/types.js';

/** A mask set on disk, as its header describes it. */
export interface BlobInfo {
  /** sha256 of the container bytes: the version. */
  readonly digest: Digest;
  /** sha256 of base digest, tensor table and canonical codes: what a child names as its parent. */
  readonly content: Digest;
  readonly base: Digest;
  /** Content digest of the set that it was transferred from or coded against. */
  readonly parent: Digest | undefined;
  /** What it takes to decode it beside its bytes. */
  readonly needs: Needs;
  readonly bytes: number;
  readonly n: number;
  readonly m: number;
  /** Weights covered. */
  readonly parameters: number;
}

export interface TaskVersion {
  readonly digest: Digest;
  /** Unix milliseconds. */
  readonly publishedAt: number;
}

export interface TaskRecord {
  readonly task: string;
  readonly digest: Digest;
  readonly blob: BlobInfo;
  /** Newest first; [0] is what was published last, `digest` may name an older one after a rollback. */
  readonly versions: readonly TaskVersion[];
  /** Shipped with the model: read-only until something is published under its name. */
  readonly shipped: boolean;
}

/** A container and where it is on this machine, its bytes verified since start-up. */
export interface StoredMask {
  readonly blob: BlobInfo;
  readonly path: string;
}

/** What a compare-and-set expects of the alias. `match`: its digest is this; `absent`: no such task in the store or shipped. */
export type Precondition = { readonly match: Digest } | { readonly absent: true } | undefined;

export interface RegistryEvent {
  readonly task: string;
  readonly digest: Digest | undefined;
}

/**
 * Names → immutable blobs. Nothing acknowledged is ever lost: a method that changes something resolves after it is on stable storage.
 * Throws ServerError: task_not_found, version_not_found, precondition_failed, reserved_task, invalid_task_name, read_only_task,
 * invalid_mask, wrong_base, parent_unknown, parent_needed, digest_mismatch, body_too_large, mask_corrupt, disk_full, store_failed,
 * shutting_down.
 */
export interface Registry {
  /**
   * Receives container bytes, checks them whole (validation in a worker thread), moves the alias. `expect`: declared sha256.
   * `created`: there was no task of this name before, shipped or published. A refused stream is left open. A container that needs a parent is
   * decoded beside it: parent_unknown if the store has none of that content.
   */
  publish(
    task: string,
    bytes: Readable,
    options: { readonly precondition?: Precondition; readonly expect?: Digest; readonly maxBytes: number },
  ): Promise<{ record: TaskRecord; created: boolean }>;
  /** Throws task_not_found, mask_corrupt. `version` resolves `name@sha256:…`: any version the task has had. */
  resolve(task: string, version?: Digest): Promise<BlobInfo>;
  get(task: string): Promise<TaskRecord>;
  list(): Promise<readonly TaskRecord[]>;
  /** Opens a blob's bytes, all or from `start` to `end` inclusive. `bytes` is the length of the whole blob. */
  read(digest: Digest, range?: { start: number; end: number }): Promise<{ bytes: number; stream: Readable }>;
  /** Path of a blob on this machine, verified since start-up: for the loader. */
  path(digest: Digest): Promise<string>;
  /**
   * A container and the sets that it comes from, its parent next, as far as the store has them; all that it needs to be decoded is among
   * them. Throws mask_corrupt if it is not.
   */
  lineage(digest: Digest): Promise<readonly StoredMask[]>;
  /** A container of the same masks that decodes by itself: needs neither parent nor weights. */
  flatten(digest: Digest): Promise<Uint8Array>;
  /** Moves the alias to another version (to what the task served before the current one was published, if none is named). */
  rollback(task: string, options: { readonly to?: Digest; readonly precondition?: Precondition }): Promise<TaskRecord>;
  /**
   * Removes the alias and its versions; a shipped task of that name comes back. Blobs go when nothing names them. Throws parent_needed, with
   * their names, if other tasks stand on one of its versions.
   */
  remove(task: string, options: { readonly precondition?: Precondition }): Promise<void>;
  onChange(listener: (event: RegistryEvent) => void): () => void;
  /** Digests found corrupt since start (quarantined), with the reason. */
  quarantined(): ReadonlyMap<Digest, string>;
  close(): Promise<void>;
}

/** Where a registry tells the operator what it found and did: one line each. A pino logger is one. */
export interface StoreLog {
  info(line: string): void;
  warn(line: string): void;
}

/**
 * Where a task's weights are. `cold`: in its container only; `warm`: as nibbles in memory; `loading`: on the way in; `patched`: its changes
 * beside a resident parent; `resident`: compacted in memory.
 */
export type Tier = 'cold' | 'warm' | 'loading' | 'patched' | 'resident';

export interface TaskPlace {
  readonly tier: Tier;
  /** In that tier, its own: a patched task's parent is not counted. */
  readonly bytes: number;
  readonly leases: number;
  /** How long it took to come into memory, where it is there: all in all, and the two stages of it. */
  readonly load?: { readonly ms: number; readonly decodeMs: number; readonly compactMs: number };
}

/** A task that came into memory. */
export interface LoadEvent {
  readonly digest: Digest;
  readonly from: 'cold' | 'warm';
  readonly to: 'patched' | 'resident';
  /** Container to nibbles, or to a list of changes. 0 from warm. */
  readonly decodeMs: number;
  /** To what kernels run with. */
  readonly compactMs: number;
}

/** Holds a resident task in memory until released. Releasing twice is harmless. */
export interface Lease {
  readonly weights: TaskWeights;
  /** True if this acquire had to load it. */
  readonly cold: boolean;
  readonly loadMs: number;
  release(): void;
}

export interface ResidencyStats {
  readonly budgetBytes: number;
  /** In the cache. */
  readonly residentBytes: number;
  /** Evicted but still leased. */
  readonly leasedOutsideBytes: number;
  /** Nibbles of evicted tasks, beside the budget. */
  readonly warmBytes: number;
  readonly warmBudgetBytes: number;
  readonly hits: number;
  readonly misses: number;
  /** Acquires by the tier in which they found their task; the first two are the hits. */
  readonly found: Readonly<Record<'resident' | 'patched' | 'warm' | 'cold', number>>;
  readonly evictions: number;
  readonly tasks: ReadonlyMap<Digest, TaskPlace>;
}

/** Tasks in memory under a byte budget: LRU, one load in flight a digest, nothing leased is freed. */
export interface Residency {
  /**
   * Throws out_of_memory when the task alone exceeds the budget (numbers in the sentence) or running requests have held all of it for
   * too long (retryAfterSeconds), mask_corrupt when the blob fails its checks, shutting_down, the signal's reason when aborted (the load goes on for whoever else waits).
   */
  acquire(digest: Digest, signal?: AbortSignal): Promise<Lease>;
  /** Bytes that a task of this model takes at most: as a compacted copy. Patched, it takes its changes. */
  costBytes(): number;
  /** Drops an unleased task; leased ones go when their last lease ends. */
  evict(digest: Digest): void;
  /** Hears of every load that succeeds. Returns how to stop. */
  onLoad(listener: (event: LoadEvent) => void): () => void;
  stats(): ResidencyStats;
  close(): Promise<void>;
}
