/**
 * How a task comes into memory, the cheapest way first. A child whose parent is in memory, or can be, as patches beside it: its changed groups,
 * whatever the model's size. Else as a compacted copy: from nibbles in the warm tier, or from its container. Room is taken before anything is
 * allocated, for the most that it may need; the rest is given back.
 */
import type { Digest } from '../../codec/mask-set.js';
import { ServerError } from '../errors.js';
import type { DecodedTask, LoadedTask, Loader } from './loader.js';
import { containerFile } from './open-containers.js';
import { loadedResident, type HeldParent, type Load, type Resident } from './resident.js';
import type { LoadEvent, Registry, StoredMask } from './types.js';
import type { WarmTier } from './warm-tier.js';

/** Patches may take this share of a compacted copy (some 9% of the groups changed), or what the budget has beside one; beyond, a copy of its own is the better use of memory and time. */
export const PATCH_SHARE = 1 / 8;
/** How long patches wait for room with their parent held. Then the parent is let go, so that loads that hold each other's room end. */
const PATCH_WAIT_MS = 1_000;
/** What a child counts for that changes nothing of its parent: the cache wants a size above 0. */
const LEAST_BYTES = 1;

/** What the cache does for an arrival. */
export interface Household {
  readonly budgetBytes: number;
  /** Bytes of a compacted copy. */
  readonly cost: number;
  readonly waitMs: number;
  /** Resolves when the room is there, or to the task itself if it turns out to be still in memory. Throws out_of_memory, shutting_down. */
  takeRoom(digest: Digest, load: Load, bytes: number, waitMs: number): Promise<Resident | undefined>;
  giveBack(bytes: number): void;
  /** Whether it is in memory with matrices of its own. */
  isWhole(digest: Digest): boolean;
  /** Holds a task in memory, compacted; brings it in if need be. undefined if it would have to wait for this very load. */
  holdWhole(digest: Digest, load: Load): Promise<HeldParent | undefined>;
  /** Resolves when a task that is on its way to the warm tier is there. */
  settled(digest: Digest): Promise<void>;
  assertOpen(): void;
}

export class Arrivals {
  /** Children that take more than patches may. */
  private readonly unlike = new Set<Digest>();

  constructor(
    private readonly household: Household,
    private readonly registry: Pick<Registry, 'lineage'>,
    private readonly loader: Loader,
    private readonly warm: WarmTier,
    private readonly report: (event: LoadEvent) => void,
  ) {}

  /** The bytes that it owns have been taken. Throws what the registry, the loader and takeRoom throw; nothing is taken then. */
  async bring(digest: Digest, load: Load): Promise<Resident> {
    const started = performance.now();
    const lineage = await this.registry.lineage(digest);
    this.household.assertOpen();
    const [mask, ...ancestors] = lineage;
    if (mask === undefined) throw new Error(`expected the lineage of ${digest} to begin with it`);
    await this.household.settled(digest);
    return (
      (await this.asPatches(mask, ancestors, load, started)) ?? (await this.asCopy(mask, ancestors, load, started))
    );
  }

  private async asPatches(
    mask: StoredMask,
    ancestors: readonly StoredMask[],
    load: Load,
    started: number,
  ): Promise<Resident | undefined> {
    const { digest } = mask.blob;
    const { household } = this;
    const limit = Math.min(Math.floor(household.cost * PATCH_SHARE), household.budgetBytes - household.cost);
    const origin = ancestors.find(({ blob }) => household.isWhole(blob.digest)) ?? ancestors.at(-1);
    if (origin === undefined || load.whole || this.unlike.has(digest) || this.warm.has(digest)) return undefined;
    if (origin.blob.digest === digest || limit < LEAST_BYTES) return undefined;
    const parent = await this.hold(origin.blob.digest, load);
    if (parent === undefined) return undefined;
    try {
      const resident = await this.patchOnto(parent, { mask, ancestors, origin }, { load, limit, started });
      if (resident?.parent !== parent) parent.release();
      return resident;
    } catch (error) {
      parent.release();
      throw error;
    }
  }

  private async patchOnto(
    parent: HeldParent,
    { mask, ancestors, origin }: { mask: StoredMask; ancestors: readonly StoredMask[]; origin: StoredMask },
    { load, limit, started }: { load: Load; limit: number; started: number },
  ): Promise<Resident | undefined> {
    const { digest } = mask.blob;
    const still = await this.takePatchRoom(digest, load, limit);
    if (still !== 'taken') return still;
    let kept = 0;
    try {
      const source = { path: mask.path, ancestors: ancestors.map(containerFile) };
      const from = { content: origin.blob.content, weights: parent.weights };
      const loaded = await this.loader.patch(digest, source, from, limit);
      if (loaded === undefined) {
        this.unlike.add(digest);
        return undefined;
      }
      kept = Math.max(LEAST_BYTES, loaded.bytes);
      return this.arrived({ ...loaded, bytes: kept }, 'cold', started, parent);
    } finally {
      this.household.giveBack(limit - kept);
    }
  }

  /** undefined: there is none for now. */
  private async takePatchRoom(digest: Digest, load: Load, bytes: number): Promise<Resident | 'taken' | undefined> {
    try {
      return (
        (await this.household.takeRoom(digest, load, bytes, Math.min(PATCH_WAIT_MS, this.household.waitMs))) ?? 'taken'
      );
    } catch (error) {
      if (error instanceof ServerError && error.code === 'out_of_memory') return undefined;
      throw error;
    }
  }

  /** A parent that can't be had is no reason to refuse a child that may decode without. */
  private async hold(digest: Digest, load: Load): Promise<HeldParent | undefined> {
    try {
      return await this.household.holdWhole(digest, load);
    } catch (error) {
      if (error instanceof ServerError && error.code === 'mask_corrupt') return undefined;
      throw error;
    }
  }

  private async asCopy(
    mask: StoredMask,
    ancestors: readonly StoredMask[],
    load: Load,
    started: number,
  ): Promise<Resident> {
    const { digest } = mask.blob;
    const { cost, waitMs } = this.household;
    // Before room is taken: what is evicted for it would push these nibbles out.
    const decoded = this.warm.take(digest);
    let used = false;
    try {
      const still = await this.household.takeRoom(digest, load, cost, waitMs);
      if (still) return still;
      const resident = await this.copied(mask, ancestors, decoded, started);
      used = true;
      return resident;
    } finally {
      if (decoded && used) this.loader.freeDecoded(decoded);
      else if (decoded) this.warm.put(decoded);
    }
  }

  /** In the room that was taken; what it does not need of it is given back. */
  private async copied(
    { blob, path }: StoredMask,
    ancestors: readonly StoredMask[],
    decoded: DecodedTask | undefined,
    started: number,
  ): Promise<Resident> {
    let kept = 0;
    try {
      const loaded = decoded
        ? await this.loader.compact(decoded)
        : await this.loader.load(blob.digest, path, ancestors.map(containerFile));
      kept = loaded.bytes;
      return this.arrived(loaded, decoded ? 'warm' : 'cold', started);
    } finally {
      this.household.giveBack(this.household.cost - kept);
    }
  }

  private arrived(
    { decodeMs, compactMs, ...weights }: LoadedTask,
    from: LoadEvent['from'],
    started: number,
    parent?: HeldParent,
  ): Resident {
    const to = parent ? 'patched' : 'resident';
    this.report({ digest: weights.digest, from, to, decodeMs, compactMs });
    return loadedResident(weights, performance.now() - started, { decodeMs, compactMs }, parent);
  }
}
