/**
 * Tasks in memory: an lru-cache by bytes, one load in flight a digest, leases. How they get there: arrivals.ts; how they leave: departures.ts.
 *
 * A task is in one of four places. `cache`: resident, leased or not. `outside`: evicted while leased; its memory is still in use, it is freed with
 * its last lease, and taken back into the cache if somebody asks for it again. `loads`: on the way in. Leaving: on the way to the warm
 * tier, its memory is free when it is there. A patched task leases the one that it stands on for as long as it is in memory itself, and uses it
 * whenever it is used, so that a parent is never the first of a family to go. Room for a load is taken before it
 * starts (room.ts) by evicting, least recently used first, what nobody leases. If everything is leased, the load waits its turn, and the
 * least recently used tasks are evicted all the same, so that their leases run out and hot tasks can't starve a cold one.
 */
import { LRUCache } from 'lru-cache';
import type { Digest } from '../../codec/mask-set.js';
import type { ModelInfo } from '../engine/types.js';
import { abortable } from './abortable.js';
import { Arrivals, type Household } from './arrivals.js';
import { Departures } from './departures.js';
import { copyBytes, createLoader, type Loader } from './loader.js';
import { allLeased, shuttingDown, tooLarge } from './residency-errors.js';
import { newLoad, sumBytes, type HeldParent, type Load, type Resident } from './resident.js';
import { Room, type RoomRequest } from './room.js';
import type { Lease, LoadEvent, Registry, Residency, ResidencyStats, TaskPlace } from './types.js';
import { WarmTier } from './warm-tier.js';

/** How long a load waits for running requests to end before its own requests are told to come back. */
const WAIT_MS = 30_000;

export interface ResidencyOptions {
  readonly budgetBytes: number;
  /** Memory for the nibbles of evicted tasks, beside `budgetBytes`. 0, the default: none are kept. */
  readonly warmBytes?: number;
  readonly model: Pick<ModelInfo, 'base' | 'maskable' | 'backend' | 'denseOnHost'>;
  readonly registry: Pick<Registry, 'lineage'>;
  /** Threads that a load may use. 0, the default: all cores. */
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
  const loader =
    options.loader ??
    createLoader(model, { budgetBytes, ...(loaderThreads === undefined ? {} : { threads: loaderThreads }) });
  const warm = new WarmTier(options.warmBytes ?? 0, (task) => loader.freeDecoded(task));
  return new LruResidency(budgetBytes, copyBytes(model), registry, loader, warm, waitMs);
}

class LruResidency implements CheckedResidency, Household {
  private readonly cache: LRUCache<Digest, Resident>;
  private readonly outside = new Map<Digest, Resident>();
  private readonly loads = new Map<Digest, Load>();
  private readonly room: Room;
  private readonly arrivals: Arrivals;
  private readonly departures: Departures;
  private readonly listeners = new Set<(event: LoadEvent) => void>();
  /** Taken for loads that are not in the cache yet. */
  private incomingBytes = 0;
  /** Acquires by where they found their task. */
  private readonly found = { resident: 0, patched: 0, warm: 0, cold: 0 };
  private evictions = 0;
  private closed = false;

  constructor(
    readonly budgetBytes: number,
    readonly cost: number,
    registry: Pick<Registry, 'lineage'>,
    private readonly loader: Loader,
    private readonly warm: WarmTier,
    readonly waitMs: number,
  ) {
    this.arrivals = new Arrivals(this, registry, loader, warm, (event) => this.emit(event));
    this.room = new Room(budgetBytes, (bytes) => this.makeRoom(bytes));
    this.departures = new Departures(loader, warm, (bytes) => this.room.release(bytes));
    this.cache = new LRUCache<Digest, Resident>({
      maxSize: budgetBytes,
      sizeCalculation: ({ weights }) => weights.bytes,
      // A load has taken its room already; as a placeholder it must not count twice.
      backgroundFetchSize: 0,
      fetchMethod: (digest) => this.bringIn(digest),
      // After: what is let go may make room for others, which looks through the cache.
      disposeAfter: (resident, digest) => this.letGo(digest, resident),
    });
  }

  async acquire(digest: Digest, signal?: AbortSignal): Promise<Lease> {
    signal?.throwIfAborted();
    if (this.closed) throw shuttingDown();
    if (this.cost > this.budgetBytes) throw tooLarge(this.cost, this.budgetBytes);
    const resident = this.inMemory(digest);
    if (resident) {
      this.found[resident.parent ? 'patched' : 'resident']++;
      resident.leases++;
      return this.lease(digest, resident, false);
    }
    this.found[this.warm.has(digest) || this.departures.has(digest) ? 'warm' : 'cold']++;
    return this.lease(digest, await this.awaitLoad(digest, signal), true);
  }

  costBytes(): number {
    return this.cost;
  }

  evict(digest: Digest): void {
    this.departures.forget(digest);
    const load = this.loads.get(digest);
    if (load) {
      load.evicted = true;
      return;
    }
    const resident = this.cache.peek(digest) ?? this.outside.get(digest);
    if (resident) resident.forgotten = true;
    this.cache.delete(digest);
  }

  onLoad(listener: (event: LoadEvent) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  stats(): ResidencyStats {
    const { resident, patched, warm, cold } = this.found;
    return {
      budgetBytes: this.budgetBytes,
      residentBytes: this.cache.calculatedSize,
      leasedOutsideBytes: sumBytes(this.outside.values()),
      warmBytes: this.warm.bytes,
      warmBudgetBytes: this.warm.budgetBytes,
      hits: resident + patched,
      misses: warm + cold,
      found: { ...this.found },
      evictions: this.evictions,
      tasks: this.places(),
    };
  }

  async close(): Promise<void> {
    this.closed = true;
    this.departures.stopKeeping();
    const loads = [...this.loads.values()];
    for (const load of loads) load.fail?.(shuttingDown());
    await this.loader.close();
    await Promise.all(loads.map((load) => load.settled));
    this.cache.clear();
    await this.departures.end();
  }

  checkIntegrity(): void {
    const cached = [...this.cache.values()];
    const outsideBytes = sumBytes(this.outside.values());
    const { takenBytes } = this.room;
    expectEqual('bytes in the cache', this.cache.calculatedSize, sumBytes(cached));
    expectEqual(
      'bytes taken',
      takenBytes,
      this.cache.calculatedSize + outsideBytes + this.incomingBytes + this.departures.bytes,
    );
    if (takenBytes > this.budgetBytes) throw new Error(`${takenBytes} bytes are taken of ${this.budgetBytes}`);
    if (cached.some(({ leases }) => leases < 0)) throw new Error('a resident task has fewer than no leases');
    for (const [digest, { leases }] of this.outside) {
      if (leases <= 0) throw new Error(`${digest} is held outside the cache without a lease`);
      if (this.cache.has(digest)) throw new Error(`${digest} is in memory twice`);
    }
    for (const { parent } of [...cached, ...this.outside.values()]) {
      const stands = parent && (this.cache.peek(parent.digest) ?? this.outside.get(parent.digest));
      if (parent && !(stands && stands.leases > 0 && stands.weights === parent.weights)) {
        throw new Error(`${parent.digest} is not held, but patches stand on it`);
      }
    }
    if (this.warm.bytes > this.warm.budgetBytes) throw new Error(`${this.warm.bytes} bytes are warm`);
  }

  async holdWhole(digest: Digest, load: Load): Promise<HeldParent | undefined> {
    if (this.loads.get(digest)?.awaitsParent) return undefined;
    const found = this.inMemory(digest);
    if (found) found.leases++;
    const resident = found ?? (await this.awaitParent(digest, load));
    const release = (): void => this.release(digest, resident);
    if (!resident.parent) return { digest, weights: resident.weights, release };
    release();
    return undefined;
  }

  isWhole(digest: Digest): boolean {
    const resident = this.cache.peek(digest);
    return resident !== undefined && !resident.parent;
  }

  giveBack(bytes: number): void {
    this.incomingBytes -= bytes;
    this.room.release(bytes);
  }

  settled(digest: Digest): Promise<void> {
    return this.departures.settled(digest);
  }

  assertOpen(): void {
    if (this.closed) throw shuttingDown();
  }

  /** Waits for the load in flight, or starts one. The resident that it resolves to has been leased for the caller. */
  private async awaitLoad(digest: Digest, signal: AbortSignal | undefined, whole = false): Promise<Resident> {
    const load = this.loads.get(digest) ?? this.startLoad(digest, whole);
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

  private async awaitParent(digest: Digest, load: Load): Promise<Resident> {
    load.awaitsParent = true;
    try {
      return await this.awaitLoad(digest, undefined, true);
    } finally {
      load.awaitsParent = false;
    }
  }

  private startLoad(digest: Digest, whole: boolean): Load {
    const load = newLoad(whole);
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
    const { parent } = load.resident ?? {};
    if (parent) this.cache.get(parent.digest);
    if (load.evicted && load.resident) load.resident.forgotten = true;
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
    const load = this.loads.get(digest);
    if (!load) throw new Error(`expected a load of ${digest} to be registered`);
    const resident = await this.arrivals.bring(digest, load);
    resident.leases += load.waiters;
    load.resident = resident;
    return resident;
  }

  /** Resolves when there is room, or to the task itself if it turns out to be still in memory. */
  takeRoom(digest: Digest, load: Load, room: number, waitMs: number): Promise<Resident | undefined> {
    return new Promise((resolve, reject) => {
      const request: RoomRequest = {
        bytes: () => (this.outside.has(digest) ? 0 : room),
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
      const timer = setTimeout(() => load.fail?.(allLeased(this.budgetBytes, waitMs)), waitMs);
      this.room.request(request);
    });
  }

  /** Evicts for a load of `bytes`: the unleased, least recently used first; then also leased ones, whose memory comes back later. */
  private makeRoom(bytes: number): void {
    const fits = (givenBack: number): boolean =>
      this.room.takenBytes - this.departures.bytes - givenBack + bytes <= this.budgetBytes;
    // Children come before their parents, which are used whenever they are.
    for (const digest of [...this.cache.rkeys()]) {
      if (fits(0)) return;
      if (this.cache.peek(digest)?.leases === 0) this.cache.delete(digest);
    }
    for (const digest of [...this.cache.rkeys()]) {
      if (fits(sumBytes(this.outside.values()))) return;
      this.cache.delete(digest);
    }
  }

  /** lru-cache's disposeAfter. */
  private letGo(digest: Digest, resident: Resident): void {
    this.evictions++;
    if (resident.leases > 0) this.outside.set(digest, resident);
    else this.departures.leave(resident);
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
      this.departures.leave(resident);
    } else {
      // It can be evicted now.
      this.room.reconsider();
    }
  }

  private inMemory(digest: Digest): Resident | undefined {
    const resident = this.cache.get(digest) ?? this.takeBack(digest);
    if (resident?.parent) this.cache.get(resident.parent.digest);
    return resident;
  }

  private places(): Map<Digest, TaskPlace> {
    const places = new Map<Digest, TaskPlace>();
    for (const [digest, bytes] of this.warm.sizes()) places.set(digest, { tier: 'warm', bytes, leases: 0 });
    for (const [digest, { waiters }] of this.loads) {
      places.set(digest, { tier: 'loading', bytes: 0, leases: waiters });
    }
    for (const [digest, { weights, leases, loadMs, times, parent }] of [...this.cache.entries(), ...this.outside]) {
      const load = { ms: loadMs, ...times };
      places.set(digest, { tier: parent ? 'patched' : 'resident', bytes: weights.bytes, leases, load });
    }
    return places;
  }

  private emit(event: LoadEvent): void {
    for (const listener of this.listeners) listener(event);
  }
}

function expectEqual(what: string, counted: number, held: number): void {
  if (counted !== held) throw new Error(`${what}: ${counted} are counted but ${held} are held`);
}
