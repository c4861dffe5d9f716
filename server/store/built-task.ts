/** What a load has made so far: the buffers that it owns, and the time that each half took. */
import { native, type Handle } from '../../kernels/index.js';

/** Native memory can't be had. */
export class NoMemory extends Error {}

export class BuiltTask {
  /** Owned by now. */
  bytes = 0;
  private readonly owned: Handle[] = [];
  private readonly spent = { decodeMs: 0, compactMs: 0 };

  get times(): { readonly decodeMs: number; readonly compactMs: number } {
    return { ...this.spent };
  }

  /** A buffer that stays with the task. Throws NoMemory. */
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
    return this.timed('decodeMs', work);
  }

  compacting<T>(work: () => T): T {
    return this.timed('compactMs', work);
  }

  /** Frees everything that it owns. */
  abandon(): void {
    for (const handle of this.owned.splice(0)) native.free(handle);
    this.bytes = 0;
  }

  private keep(handle: Handle, bytes: number): Handle {
    this.owned.push(handle);
    this.bytes += bytes;
    return handle;
  }

  private timed<T>(half: 'decodeMs' | 'compactMs', work: () => T): T {
    const started = performance.now();
    try {
      return work();
    } finally {
      this.spent[half] += performance.now() - started;
    }
  }
}

function attempt(allocate: () => Handle): Handle {
  try {
    return allocate();
  } catch (error) {
    throw new NoMemory(error instanceof Error ? error.message : String(error));
  }
}
