/** A loader without a thread: tests decide when a load ends, and it knows what is allocated. */
import type { Digest } from '../../../codec/mask-set.js';
import type { TaskWeights } from '../../../server/engine/types.js';
import type { Loader } from '../../../server/store/loader.js';
import type { Registry, StoredMask } from '../../../server/store/types.js';

export class FakeLoader implements Loader {
  /** Loads begun, in order. */
  readonly begun: Digest[] = [];
  /** Digests whose weights are allocated: from the begin of a load until they are freed. */
  readonly live = new Set<Digest>();
  mostBytes = 0;
  closed = false;
  private readonly inFlight = new Map<Digest, { end: () => void; fail: (error: Error) => void }>();

  /** @param bytesOf what a task takes @param automatic loads end by themselves, at the next turn */
  constructor(
    private readonly bytesOf: (digest: Digest) => number,
    private readonly automatic = true,
  ) {}

  load(digest: Digest): Promise<TaskWeights> {
    if (this.live.has(digest)) throw new Error(`${digest} is loaded twice`);
    this.begun.push(digest);
    this.live.add(digest);
    const bytes = [...this.live].reduce((sum, each) => sum + this.bytesOf(each), 0);
    this.mostBytes = Math.max(this.mostBytes, bytes);
    return new Promise((resolve, reject) => {
      const end = (): void => {
        this.inFlight.delete(digest);
        resolve({ digest, matrices: {}, bytes: this.bytesOf(digest) });
      };
      const fail = (error: Error): void => {
        this.inFlight.delete(digest);
        this.live.delete(digest);
        reject(error);
      };
      this.inFlight.set(digest, { end, fail });
      if (this.automatic) setImmediate(() => this.inFlight.has(digest) && end());
    });
  }

  end(digest: Digest): void {
    this.flight(digest).end();
  }

  fail(digest: Digest, error: Error): void {
    this.flight(digest).fail(error);
  }

  free({ digest }: TaskWeights): void {
    if (!this.live.delete(digest)) throw new Error(`${digest} is freed twice`);
  }

  async close(): Promise<void> {
    this.closed = true;
    for (const { fail } of [...this.inFlight.values()]) fail(new Error('closed'));
  }

  private flight(digest: Digest): { end: () => void; fail: (error: Error) => void } {
    const flight = this.inFlight.get(digest);
    if (!flight) throw new Error(`${digest} is not being loaded`);
    return flight;
  }
}

/** A registry in which a container's path is its digest; `before` runs before it answers. */
export function fakeRegistry(before: (digest: Digest) => unknown = () => undefined): Pick<Registry, 'lineage'> {
  return {
    lineage: async (digest) => {
      await before(digest);
      return [storedMask(digest)];
    },
  };
}

/** A container that needs nothing. Its content is its digest. */
export function storedMask(digest: Digest): StoredMask {
  const needs = { parent: undefined, weights: false };
  const blob = { digest, content: digest, base: digest, parent: undefined, needs, bytes: 1, n: 2, m: 4, parameters: 1 };
  return { blob, path: digest };
}
