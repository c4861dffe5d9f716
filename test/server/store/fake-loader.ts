/** A loader without a thread: tests decide when a load ends, and it knows what is allocated. */
import type { Digest } from '../../../codec/mask-set.js';
import type { TaskWeights } from '../../../server/engine/types.js';
import type { DecodedTask, LoadedTask, Loader, LoadSource } from '../../../server/store/loader.js';
import type { Registry, StoredMask } from '../../../server/store/types.js';

const NO_TIME = { decodeMs: 0, compactMs: 0 };

export class FakeLoader implements Loader {
  /** Loads from containers begun, in order. */
  readonly begun: Digest[] = [];
  /** Loads from nibbles begun, in order. */
  readonly compacted: Digest[] = [];
  /** Digests whose weights are allocated: from the begin of a load until they are freed. */
  readonly live = new Set<Digest>();
  /** Digests whose nibbles are allocated. */
  readonly decoded = new Set<Digest>();
  /** Patched digest → the digest whose matrices it shares. */
  readonly parents = new Map<Digest, Digest>();
  mostBytes = 0;
  closed = false;
  private readonly inFlight = new Map<Digest, { end: () => void; fail: (error: Error) => void }>();

  /**
   * @param bytesOf what a task takes
   * @param automatic loads end by themselves, at the next turn
   * @param patchBytesOf what it takes as patches; undefined: it has too many changes for that
   */
  constructor(
    private readonly bytesOf: (digest: Digest) => number,
    private readonly automatic = true,
    private readonly patchBytesOf: (digest: Digest) => number | undefined = () => undefined,
  ) {}

  load(digest: Digest): Promise<LoadedTask> {
    this.begun.push(digest);
    return this.begin(digest, this.bytesOf(digest));
  }

  async patch(
    digest: Digest,
    _source: LoadSource,
    { weights }: { readonly weights: TaskWeights },
    limitBytes: number,
  ): Promise<LoadedTask | undefined> {
    const bytes = this.patchBytesOf(digest);
    if (bytes === undefined || bytes > limitBytes) return undefined;
    if (!this.live.has(weights.digest))
      throw new Error(`${digest} is patched onto ${weights.digest}, which is not there`);
    this.parents.set(digest, weights.digest);
    const loaded = await this.begin(digest, bytes);
    return { ...loaded, matrices: weights.matrices, patches: {} };
  }

  compact({ digest }: DecodedTask): Promise<LoadedTask> {
    if (!this.decoded.has(digest)) throw new Error(`the nibbles of ${digest} are not there`);
    this.compacted.push(digest);
    return this.begin(digest, this.bytesOf(digest));
  }

  async extract({ digest, bytes }: TaskWeights): Promise<DecodedTask> {
    if (!this.live.has(digest)) throw new Error(`${digest} is not there`);
    if (this.decoded.has(digest)) throw new Error(`${digest} is decoded twice`);
    this.decoded.add(digest);
    await Promise.resolve();
    return { digest, nibbles: {}, bytes: bytes / 9 };
  }

  freeDecoded({ digest }: DecodedTask): void {
    if (!this.decoded.delete(digest)) throw new Error(`the nibbles of ${digest} are freed twice`);
  }

  end(digest: Digest): void {
    this.flight(digest).end();
  }

  fail(digest: Digest, error: Error): void {
    this.flight(digest).fail(error);
  }

  free({ digest }: TaskWeights): void {
    if (!this.live.delete(digest)) throw new Error(`${digest} is freed twice`);
    this.parents.delete(digest);
    const child = [...this.parents].find(([, parent]) => parent === digest);
    if (child) throw new Error(`${digest} is freed under ${child[0]}`);
  }

  async close(): Promise<void> {
    this.closed = true;
    for (const { fail } of [...this.inFlight.values()]) fail(new Error('closed'));
  }

  private begin(digest: Digest, bytes: number): Promise<LoadedTask> {
    if (this.live.has(digest)) throw new Error(`${digest} is loaded twice`);
    this.live.add(digest);
    const all = [...this.live].reduce((sum, each) => sum + this.sizeOf(each), 0);
    this.mostBytes = Math.max(this.mostBytes, all);
    return new Promise((resolve, reject) => {
      const end = (): void => {
        this.inFlight.delete(digest);
        resolve({ digest, matrices: {}, bytes, ...NO_TIME });
      };
      const fail = (error: Error): void => {
        this.inFlight.delete(digest);
        this.live.delete(digest);
        this.parents.delete(digest);
        reject(error);
      };
      this.inFlight.set(digest, { end, fail });
      if (this.automatic) setImmediate(() => this.inFlight.has(digest) && end());
    });
  }

  private sizeOf(digest: Digest): number {
    return this.parents.has(digest) ? (this.patchBytesOf(digest) ?? 0) : this.bytesOf(digest);
  }

  private flight(digest: Digest): { end: () => void; fail: (error: Error) => void } {
    const flight = this.inFlight.get(digest);
    if (!flight) throw new Error(`${digest} is not being loaded`);
    return flight;
  }
}

/**
 * A registry in which a container's path and content are its digest; `before` runs before it answers. `parentOf`: what a container was
 * transferred from.
 */
export function fakeRegistry(
  before: (digest: Digest) => unknown = () => undefined,
  parentOf: (digest: Digest) => Digest | undefined = () => undefined,
): Pick<Registry, 'lineage'> {
  return {
    lineage: async (digest) => {
      await before(digest);
      const lineage = [storedMask(digest, parentOf(digest))];
      for (let next = parentOf(digest); next !== undefined && lineage.length < 8; next = parentOf(next)) {
        if (lineage.some(({ path }) => path === next)) break;
        lineage.push(storedMask(next, parentOf(next)));
      }
      return lineage;
    },
  };
}

/** A container that needs nothing. Its content is its digest. */
export function storedMask(digest: Digest, parent?: Digest): StoredMask {
  const needs = { parent: undefined, weights: false };
  return {
    blob: { digest, content: digest, base: digest, parent, needs, bytes: 1, n: 2, m: 4, parameters: 1 },
    path: digest,
  };
}
