/** How a task leaves memory: freed at once, or first put into the warm tier as nibbles. Its room is given back when its memory is free. */
import type { Digest } from '../../codec/mask-set.js';
import type { Loader } from './loader.js';
import type { Resident } from './resident.js';
import type { WarmTier } from './warm-tier.js';

export class Departures {
  /** Of tasks on the way to the warm tier: still in memory. */
  bytes = 0;
  /** Resolves when it has left. */
  private readonly leaving = new Map<Digest, Promise<void>>();
  private closed = false;

  constructor(
    private readonly loader: Loader,
    private readonly warm: WarmTier,
    private readonly giveBack: (bytes: number) => void,
  ) {}

  has(digest: Digest): boolean {
    return this.leaving.has(digest);
  }

  /** Resolves when a task that is on its way is there. */
  settled(digest: Digest): Promise<void> {
    return this.leaving.get(digest) ?? Promise.resolve();
  }

  /** A task that nobody leases any more. */
  leave(resident: Resident): void {
    const { weights, parent } = resident;
    if (this.isWorthKeeping(resident)) {
      this.leaving.set(weights.digest, this.keepWarm(resident));
      return;
    }
    this.loader.free(weights);
    parent?.release();
    this.giveBack(weights.bytes);
  }

  /** A task whose nibbles nobody will ask for. */
  forget(digest: Digest): void {
    this.warm.drop(digest);
    void this.leaving.get(digest)?.then(() => this.warm.drop(digest));
  }

  /** From here on tasks are freed at once. */
  stopKeeping(): void {
    this.closed = true;
  }

  /** Resolves when all have left. */
  async end(): Promise<void> {
    await Promise.all(this.leaving.values());
    this.warm.clear();
  }

  /** Patches are as soon made again; a ninth of a copy's bytes are its nibbles. */
  private isWorthKeeping({ weights, parent, forgotten }: Resident): boolean {
    return !parent && !forgotten && !this.closed && weights.bytes / 9 <= this.warm.budgetBytes;
  }

  private async keepWarm({ weights }: Resident): Promise<void> {
    this.bytes += weights.bytes;
    try {
      this.warm.put(await this.loader.extract(weights));
    } catch {
      // Then it is cold: a load will say what is wrong, if something is.
    } finally {
      this.loader.free(weights);
      this.leaving.delete(weights.digest);
      this.bytes -= weights.bytes;
      this.giveBack(weights.bytes);
    }
  }
}
