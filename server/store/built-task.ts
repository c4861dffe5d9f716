/** What a load has made so far: the buffers that it owns, and the time that each half took. */
import { native, type Handle } from '../../kernels/index.js';
import type { CompactedMatrix } from '../engine/types.js';

/** Native memory can't be had. */
export class NoMemory extends Error {}

export type Copy = Readonly<Record<string, CompactedMatrix>>;

export class BuiltTask {
  /** Owned by now. */
  bytes = 0;
  private readonly owned: Handle[] = [];
  private readonly spent = { decodeMs: 0, compactMs: 0 };
  private readonly spare: Map<string, Handle>;

  /** @param spare a compacted copy that nobody uses any more: its buffers are this task's, to fill or to free */
  constructor(spare: Copy = {}) {
    this.spare = new Map(Object.entries(spare).map(([name, { packed }]) => [name, packed]));
  }

  get times(): { readonly decodeMs: number; readonly compactMs: number } {
    return { ...this.spent };
  }

  /** A buffer that stays with the task; what it holds is not said. Throws NoMemory. */
  ownPacked(name: string, bytes: number): Handle {
    const spare = this.spare.get(name);
    if (spare === undefined || native.byteLength(spare) !== bytes) return this.own(bytes);
    this.spare.delete(name);
    return this.keep(spare, bytes);
  }

  /** A zeroed buffer that stays with the task. Throws NoMemory. */
  own(bytes: number): Handle {
    return this.keep(
      attempt(() => native.alloc(bytes)),
      bytes,
    );
  }

  /** The same in host memory, wherever ops run. Throws NoMemory. */
  ownOnHost(bytes: number): Handle {
    return this.keep(
      attempt(() => native.allocHost(bytes)),
      bytes,
    );
  }

  /** A buffer for as long as `use` runs. Throws NoMemory. */
  withBuffer<T>(bytes: number, use: (buffer: Handle) => T): T {
    const buffer = attempt(() => native.alloc(bytes));
    try {
      return use(buffer);
    } finally {
      native.free(buffer);
    }
  }

  decoding<T>(work: () => T): T {
    return this.timed(() => 0, work);
  }

  compacting<T>(work: () => T): T {
    return this.timed(() => 1, work);
  }

  /** Both in one: `work` returns what share of its time went into compacting. */
  decodingAndCompacting(work: () => number): void {
    this.timed((share) => share, work);
  }

  /** Frees what it was given and has not used. */
  finish(): void {
    for (const handle of this.spare.values()) native.free(handle);
    this.spare.clear();
  }

  /** Frees everything that it owns. */
  abandon(): void {
    this.finish();
    for (const handle of this.owned.splice(0)) native.free(handle);
    this.bytes = 0;
  }

  private keep(handle: Handle, bytes: number): Handle {
    this.owned.push(handle);
    this.bytes += bytes;
    return handle;
  }

  private timed<T>(compactingShare: (result: T) => number, work: () => T): T {
    const started = performance.now();
    const result = work();
    const spent = performance.now() - started;
    const share = compactingShare(result);
    this.spent.compactMs += spent * share;
    this.spent.decodeMs += spent * (1 - share);
    return result;
  }
}

function attempt(allocate: () => Handle): Handle {
  try {
    return allocate();
  } catch (error) {
    throw new NoMemory(error instanceof Error ? error.message : String(error));
  }
}
