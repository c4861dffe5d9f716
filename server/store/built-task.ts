/** What a load has made so far: the buffers that it owns, and the time that each half took. */
import { native, type Handle } from '../../kernels/index.js';
import { packedBytesOf, type CompactedMatrix, type MaskableMatrix } from '../engine/types.js';

/** What native.alloc promises of a buffer's start. */
const ALIGNMENT = 64;

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

  /** Buffers that stay with the task, for the compacted form of each matrix; what they hold is not said. Throws NoMemory. */
  ownCopy(matrices: readonly MaskableMatrix[]): Record<string, CompactedMatrix> {
    const packed = this.takeSpare(matrices) ?? this.ownAnew(matrices);
    return Object.fromEntries(matrices.map(({ name }, i) => [name, { packed: packed[i] as Handle }]));
  }

  /** Zeroed buffers that stay with the task, in host memory wherever ops run, for the (rows · cols/8) bytes of each matrix's nibbles. Throws NoMemory. */
  ownNibbles(matrices: readonly MaskableMatrix[]): Record<string, Handle> {
    const nibbles = this.ownInOnePiece(matrices, ({ rows, cols }) => (rows * cols) / 8, native.allocHost);
    return Object.fromEntries(matrices.map(({ name }, i) => [name, nibbles[i] as Handle]));
  }

  /** A zeroed buffer that stays with the task. Throws NoMemory. */
  own(bytes: number): Handle {
    return this.keep(
      attempt(() => native.alloc(bytes)),
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

  /** The spare copy, if it is of these very matrices. */
  private takeSpare(matrices: readonly MaskableMatrix[]): Handle[] | undefined {
    const packed = matrices.map(({ name }) => this.spare.get(name));
    const fits = packed.every(
      (buffer, i) => buffer !== undefined && native.byteLength(buffer) === packedBytesOf(matrices[i]!),
    );
    if (!fits || packed.length !== this.spare.size) return undefined;
    this.spare.clear();
    return packed.map((buffer, i) => this.keep(buffer as Handle, packedBytesOf(matrices[i]!)));
  }

  private ownAnew(matrices: readonly MaskableMatrix[]): Handle[] {
    this.finish();
    return this.ownInOnePiece(matrices, packedBytesOf, native.alloc);
  }

  /**
   * Views of one buffer, which lives as long as any of them: the system hands out a large piece of memory faster, in pages of 2 MiB, and a GPU's
   * driver, which waits for the whole device when memory is given back, is asked once.
   */
  private ownInOnePiece(
    matrices: readonly MaskableMatrix[],
    bytesOf: (matrix: MaskableMatrix) => number,
    allocate: (bytes: number) => Handle,
  ): Handle[] {
    const sizes = matrices.map(bytesOf);
    const steps = sizes.map((bytes) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT);
    const piece = attempt(() => allocate(steps.reduce((sum, step) => sum + step, 0)));
    let at = 0;
    try {
      return sizes.map((bytes, i) => {
        const view = this.keep(native.view(piece, at, bytes), bytes);
        at += steps[i]!;
        return view;
      });
    } finally {
      native.free(piece);
    }
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
