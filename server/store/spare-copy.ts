/**
 * The memory of the compacted copy that was let go last, kept for the next one: the system takes longer to hand out fresh pages than a copy takes
 * to be made in old ones. Only as far as the budget has room for it beside what tasks use, so that it holds at every moment.
 */
import { native, type Handle } from '../../kernels/index.js';
import type { TaskWeights } from '../engine/types.js';
import type { Copy } from './built-task.js';

export class SpareCopy {
  private held: Copy | undefined;
  private heldBytes = 0;
  /** Of tasks in memory, and what loads in flight may take. */
  private usedBytes = 0;

  /** @param budgetBytes 0: keeps nothing */
  constructor(private budgetBytes: number) {}

  /** The memory that is kept, the caller's from now on. */
  take(): Copy | undefined {
    const copy = this.held;
    this.held = undefined;
    this.heldBytes = 0;
    return copy;
  }

  /** A load may allocate so many bytes. */
  reserve(bytes: number): void {
    this.usedBytes += bytes;
    if (this.usedBytes + this.heldBytes > this.budgetBytes) this.drop();
  }

  /** A load has ended, or took less than it might have. */
  giveBack(bytes: number): void {
    this.usedBytes -= bytes;
  }

  /** Frees a task's memory, now or later. */
  free(weights: TaskWeights): void {
    const bytes = ownedBytes(weights);
    this.usedBytes -= bytes;
    const fits = bytes > this.heldBytes && this.usedBytes + bytes <= this.budgetBytes;
    if (weights.patches || !fits) return freeAll(ownedHandles(weights));
    this.drop();
    this.held = weights.matrices;
    this.heldBytes = bytes;
  }

  /** Nothing is kept any more. */
  close(): void {
    this.budgetBytes = 0;
    this.drop();
  }

  private drop(): void {
    freeAll(packedOf(this.take() ?? {}));
  }
}

/** Bytes that a task has allocated: of a patched one, its patches'. */
export function ownedBytes(weights: TaskWeights): number {
  return ownedHandles(weights).reduce((sum, handle) => sum + native.byteLength(handle), 0);
}

function ownedHandles({ matrices, patches }: TaskWeights): Handle[] {
  return patches ? Object.values(patches) : packedOf(matrices);
}

function packedOf(copy: Copy): Handle[] {
  return Object.values(copy).map(({ packed }) => packed);
}

function freeAll(handles: readonly Handle[]): void {
  for (const handle of handles) native.free(handle);
}
