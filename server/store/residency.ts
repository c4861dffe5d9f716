/**
 * Compacted tasks in memory: an lru-cache by bytes, one load in flight a digest, leases.
 *
 * A task is in one of three places. `cache`: resident, leased or not. `outside`: evicted while leased; its memory is still in use, it is freed with
 * its last lease, and taken back into the cache if somebody asks for it again. `loads`: on the way in. Room for a load is taken before it
 * starts (room.ts) by evicting, least recently used first, what nobody leases. If everything is leased, the load waits its turn, and the
 * least recently used tasks are evicted all the same, so that their leases run out and hot tasks can't starve a cold one.
 */
import { LRUCache } from 'lru-cache';
import type { Digest } from '../../codec/mask-set.js';
import type { ModelInfo, TaskWeights } from '../engine/types.js';
import { ServerError } from '../errors.js';
import { abortable } from './abortable.js';
import { createLoader, type Loader } from './loader.js';
import { containerFile } from './open-containers.js';
import { Room, type RoomRequest } from './room.js';
import type { Lease, Registry, Residency, ResidencyStats, StoredMask, Tier } from './types.js';

/** How long a load waits for running requests to end before its own requests are told to come back. */
const WAIT_MS = 30_000;
const RETRY_AFTER_SECONDS = 5;

export interface ResidencyOptions {
  readonly budgetBytes: number;
  readonly model: Pick<ModelInfo, 'base' | 'maskable'>;
  readonly registry: Pick<Registry, 'lineage'>;
  /** Threads that a load may use. 1: the other cores stay with the engine. */
  readonly loaderThreads?: number;
  readonly waitMs?: number;
  /** Other than a worker thread over the native kernels. */
  readonly loader?: Loader;
}

/** A residency that can be asked whether its books balance. */
export interface CheckedResidency extends Residency {
  /** Throws if any count differs from what is really held. */
  checkIntegrity(): void;
}

export function createResidency(options: ResidencyOptions): CheckedResidency {
  const { budgetBytes, model, registry, loaderThreads, waitMs = WAIT_MS } = options;
  if (!Number.isSafeInteger(budgetBytes) || budgetBytes <= 0) {
    throw new RangeError(
      `expected the memory for resident tasks to be a positive number of bytes but received ${budgetBytes}`,
    );
  }
  const loader = options.loader ?? createLoader(model, loaderThreads);
  return new LruResidency(budgetBytes, taskBytes(model), registry, loader, waitMs);
}

/** The packed form of every matrix: 9/16 of the dense bytes. */
function taskBytes({ maskable }: Pick<ModelInfo, 'maskable'>): number {
  return maskable.reduce((sum, { rows, cols }) => sum + rows * cols + (rows * cols) / 8, 0);
}

interface Resident {
  readonly weights: TaskWeights;
  readonly loadMs: number;
  leases: number;
}

/** A task on its way in. */
interface Load {
  /** Acquires that wait for it and have not given up. */
  waiters: number;
  /** Set when it is in memory; every waiter then has a lease on it. */
  resident: Resident | undefined;
  /** Present while it waits for room: ends it with an error. */
  fail: ((error: ServerError) => void) | undefined;
  /** evict() was called meanwhile. */
  evicted: boolean;
  /** Resolves when it has ended, well or not. */
  settled: Promise<void>;
}

class LruResidency implements CheckedResidency {
  private readonly cache: LRUCache<Digest, Resident>;
  private readonly outside = new Map<Digest, Resident>();
  private readonly loads = new Map<Digest, Load>();
  private readonly room: Room;
  /** Taken for loads that are not in the cache yet. */
  private incomingBytes = 0;
  private hits = 0;
  private misses = 0;
  private evictions = 0;
  private closed = false;

  constructor(
    private readonly budgetBytes: number,
    private readonly cost: number,
    private readonly registry: Pick<Registry, 'lineage'>,
    private readonly loader: Loader,
    private readonly waitMs: number,
  ) {
    this.room = new Room(budgetBytes, (bytes) => this.makeRoom(bytes));
    this.cache = new LRUCache<Digest, Resident>({
      maxSize: budgetBytes,
      sizeCalculation: ({ weights }) => weights.bytes,
      // A load has taken its room already; as a placeholder it must not count twice.
      backgroundFetchSize: 0,
      fetchMethod: (digest) => this.bringIn(digest),
      dispose: (resident, digest) => this.letGo(digest, resident),
    });
  }

  async acquire(digest: Digest, signal?: AbortSignal): Promise<Lease> {
    signal?.throwIfAborted();
    if (this.closed) throw shuttingDown();
    if (this.cost > this.budgetBytes) throw tooLarge(this.cost, this.budgetBytes);
    const resident = this.cache.get(digest) ?? this.takeBack(digest);
    if (resident) {
      this.hits++;
      resident.leases++;
      return this.lease(digest, resident, false);
    }
    this.misses++;
    return this.lease(digest, await this.awaitLoad(digest, signal), true);
  }

  costBytes(): number {
    return this.cost;
  }

  evict(digest: Digest): void {
    const load = this.loads.get(digest);
    if (load) load.evicted = true;
    else this.cache.delete(digest);
  }

  stats(): ResidencyStats {
    const tasks = new Map<Digest, { tier: Tier; bytes: number; leases: number; loadMs: number }>();
    for (const [digest, { waiters }] of this.loads) {
      tasks.set(digest, { tier: 'loading', bytes: 0, leases: waiters, loadMs: 0 });
    }
    for (const [digest, { weights, leases, loadMs }] of [...this.cache.entries(), ...this.outside]) {
      tasks.set(digest, { tier: 'resident', bytes: weights.bytes, leases, loadMs });
    }
    return {
      budgetBytes: this.budgetBytes,
      residentBytes: this.cache.calculatedSize,
      leasedOutsideBytes: sumBytes(this.outside.values()),
      hits: this.hits,
      misses: this.misses,
      evictions: this.evictions,
      tasks,
    };
  }

  async close(): Promise<void> {
    this.closed = true;
    const loads = [...this.loads.values()];
    for (const load of loads) load.fail?.(shuttingDown());
    await this.loader.close();
    await Promise.all(loads.map((load) => load.settled));
    this.cache.clear();
  }

  checkIntegrity(): void {
    const cached = [...this.cache.values()];
    const outsideBytes = sumBytes(this.outside.values());
    const { takenBytes } = this.room;
    expectEqual('bytes in the cache', this.cache.calculatedSize, sumBytes(cached));
    expectEqual('bytes taken', takenBytes, this.cache.calculatedSize + outsideBytes + this.incomingBytes);
    if (takenBytes > this.budgetBytes) throw new Error(`${takenBytes} bytes are taken of ${this.budgetBytes}`);
    if (cached.some(({ leases }) => leases < 0)) throw new Error('a resident task has fewer than no leases');
    for (const [digest, { leases }] of this.outside) {
      if (leases <= 0) throw new Error(`${digest} is held outside the cache without a lease`);
      if (this.cache.has(digest)) throw new Error(`${digest} is in memory twice`);
    }
  }

  /** Waits for the load in flight, or starts one. The resident that it resolves to has been leased for the caller. */
  private async awaitLoad(digest: Digest, signal: AbortSignal | undefined): Promise<Resident> {
    const load = this.loads.get(digest) ?? this.startLoad(digest);
    if (load.resident) load.resident.leases++;
    else load.waiters++;
    try {
      const resident = await abortable(this.cache.fetch(digest), signal);
      if (resident) return resident;
      throw shuttingDown();
    } catch (error) {
      this.withdraw(digest, load);
      throw error;
    }
  }

  private startLoad(digest: Digest): Load {
    const load: Load = { waiters: 0, resident: undefined, fail: undefined, evicted: false, settled: Promise.resolve() };
    this.loads.set(digest, load);
    const settle = (): void => this.settle(digest, load);
    load.settled = this.cache.fetch(digest).then(settle, settle);
    return load;
  }

  /** A load has ended; what it brought is in the cache. */
  private settle(digest: Digest, load: Load): void {
    // A load that was abandoned may have a successor by now.
    if (this.loads.get(digest) !== load) return;
    this.loads.delete(digest);
    if (load.resident) this.incomingBytes -= load.resident.weights.bytes;
    if (load.evicted || this.closed) this.cache.delete(digest);
    this.room.reconsider();
  }

  /** Somebody who waited for a load goes away. A load that nobody waits for any more and that has no room yet is abandoned. */
  private withdraw(digest: Digest, load: Load): void {
    if (load.resident) {
      this.release(digest, load.resident);
      return;
    }
    load.waiters--;
    if (load.waiters > 0 || !load.fail) return;
    this.loads.delete(digest);
    this.cache.delete(digest);
    load.fail(shuttingDown());
  }

  /** lru-cache's fetchMethod: called once for all who ask for the digest meanwhile. */
  private async bringIn(digest: Digest): Promise<Resident> {
    const started = performance.now();
    const load = this.loads.get(digest);
    if (!load) throw new Error(`expected a load of ${digest} to be registered`);
    const masks = await this.registry.lineage(digest);
    if (this.closed) throw shuttingDown();
    const resident = (await this.takeRoom(digest, load)) ?? (await this.compact(digest, masks, started));
    resident.leases += load.waiters;
    load.resident = resident;
    return resident;
  }

  /** Resolves when there is room, or to the task itself if it turns out to be still in memory. */
  private takeRoom(digest: Digest, load: Load): Promise<Resident | undefined> {
    return new Promise((resolve, reject) => {
      const request: RoomRequest = {
        bytes: () => (this.outside.has(digest) ? 0 : this.cost),
        grant: (bytes) => {
          done();
          const resident = this.outside.get(digest);
          this.outside.delete(digest);
          this.incomingBytes += resident ? resident.weights.bytes : bytes;
          resolve(resident);
        },
      };
      const done = (): void => {
        clearTimeout(timer);
        load.fail = undefined;
      };
      load.fail = (error) => {
        done();
        reject(error);
        this.room.withdraw(request);
      };
      const timer = setTimeout(() => load.fail?.(allLeased(this.budgetBytes, this.waitMs)), this.waitMs);
      this.room.request(request);
    });
  }

  /** Loads into the room that was taken, and gives back what the task does not need of it. */
  private async compact(
    digest: Digest,
    [mask, ...ancestors]: readonly StoredMask[],
    started: number,
  ): Promise<Resident> {
    try {
      if (mask === undefined) throw new Error(`expected the lineage of ${digest} to begin with it`);
      const weights = await this.loader.load(digest, mask.path, ancestors.map(containerFile));
      const spare = this.cost - weights.bytes;
      this.incomingBytes -= spare;
      this.room.release(spare);
      return { weights, loadMs: performance.now() - started, leases: 0 };
    } catch (error) {
      this.incomingBytes -= this.cost;
      this.room.release(this.cost);
      throw error;
    }
  }

  /** Evicts for a load of `bytes`: the unleased, least recently used first; then also leased ones, whose memory comes back later. */
  private makeRoom(bytes: number): void {
    const fits = (givenBack: number): boolean => this.room.takenBytes - givenBack + bytes <= this.budgetBytes;
    const oldestFirst = [...this.cache.rkeys()];
    for (const digest of oldestFirst) {
      if (fits(0)) return;
      if (this.cache.peek(digest)?.leases === 0) this.cache.delete(digest);
    }
    for (const digest of oldestFirst) {
      if (fits(sumBytes(this.outside.values()))) return;
      this.cache.delete(digest);
    }
  }

  /** lru-cache's dispose. */
  private letGo(digest: Digest, resident: Resident): void {
    this.evictions++;
    if (resident.leases > 0) this.outside.set(digest, resident);
    else this.free(resident);
  }

  /** What is still in memory is used again, unless others wait for that memory, or a load is on its way that will find it. */
  private takeBack(digest: Digest): Resident | undefined {
    const resident = this.outside.get(digest);
    if (!resident || this.room.waiting > 0 || this.loads.has(digest)) return undefined;
    this.outside.delete(digest);
    this.cache.set(digest, resident);
    return resident;
  }

  private lease(digest: Digest, resident: Resident, cold: boolean): Lease {
    let held = true;
    return {
      weights: resident.weights,
      cold,
      loadMs: resident.loadMs,
      release: () => {
        if (held) this.release(digest, resident);
        held = false;
      },
    };
  }

  private release(digest: Digest, resident: Resident): void {
    resident.leases--;
    if (resident.leases > 0) return;
    if (this.outside.get(digest) === resident) {
      this.outside.delete(digest);
      this.free(resident);
    } else {
      // It can be evicted now.
      this.room.reconsider();
    }
  }

  private free({ weights }: Resident): void {
    this.loader.free(weights);
    this.room.release(weights.bytes);
  }
}

function sumBytes(residents: Iterable<Resident>): number {
  let bytes = 0;
  for (const { weights } of residents) bytes += weights.bytes;
  return bytes;
}

function expectEqual(what: string, counted: number, held: number): void {
  if (counted !== held) throw new Error(`${what}: ${counted} are counted but ${held} are held`);
}

function tooLarge(cost: number, budget: number): ServerError {
  return new ServerError(
    'out_of_memory',
    `a task of this model takes ${cost} bytes in memory, but all resident tasks together may take ${budget}; raise --cache-bytes`,
  );
}

function allLeased(budget: number, waitedMs: number): ServerError {
  return new ServerError(
    'out_of_memory',
    `waited ${waitedMs / 1000} s for room among the resident tasks, but running requests use all ${budget} bytes; try again later or raise --cache-bytes`,
    { retryAfterSeconds: RETRY_AFTER_SECONDS },
  );
}

function shuttingDown(): ServerError {
  return new ServerError('shutting_down', 'the server is shutting down');
}
