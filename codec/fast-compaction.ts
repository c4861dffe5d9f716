/**
 * Chunks straight to compacted matrices, by native code: bytes → nibbles → compress24 of the frozen weights, a chunk at a time on every thread,
 * so that no tensor's nibbles are ever in memory. Chunks of a file are read by whoever decodes them. Tensors come in the order of coding, each chunk decoded once.
 */
import type { CompressedTensor } from '../kernels/codec-types.js';
import type { Handle } from '../kernels/handle.js';
import type { DenseRuns } from './dense-run.js';
import type { FastCoders } from './fast-coders.js';

/** Columns of a block of the packed form: a step of a chunk is two of them. */
const BLOCK_COLUMNS = 64;

export interface CompactionBuffers {
  /** (rows, cols) bf16 */
  readonly weights: Handle;
  /** (rows · cols · 9/8) bytes */
  readonly packed: Handle;
}

export class FastCompaction {
  /** Tensors that a chunk before `next` holds something of, and the next may. */
  private readonly begun = new Map<number, CompactionBuffers>();
  private next: number;

  /** `chunksOf`: chunks by tensor. */
  constructor(
    private readonly runs: DenseRuns,
    private readonly fast: FastCoders,
    private readonly chunksOf: readonly (readonly number[])[],
  ) {
    this.next = chunksOf[runs.tensors[0] ?? -1]?.[0] ?? 0;
  }

  /** Whether all dense tensors are of whole blocks: some are between others in their chunks. */
  get possible(): boolean {
    return this.runs.tensors.every((index) => this.runs.entry(index).cols % BLOCK_COLUMNS === 0);
  }

  /**
   * Compacts every tensor up to `index`, a dense one, that is not yet; `buffersOf` is asked once for each, and for one that shares the last chunk.
   * Returns what share of the time went into compacting. Throws CodecError as DenseRuns.check.
   */
  upTo(index: number, buffersOf: (index: number) => CompactionBuffers): number {
    const first = this.next;
    const last = this.chunksOf[index]?.at(-1) ?? -1;
    if (last < first) return 0;
    const members = this.runs.members(first, last);
    const tensors = members.map((member) => this.compressed(member, buffersOf));
    const chunks = this.runs.readInPlace(first, last);
    const share = this.fast.decodeCompressed(tensors, this.runs.chunkSteps, this.runs.firstStep(first), chunks);
    this.runs.check(chunks, first);
    this.next = last + 1;
    for (const member of members.slice(0, -1)) this.begun.delete(member);
    return share;
  }

  private compressed(index: number, buffersOf: (index: number) => CompactionBuffers): CompressedTensor {
    let buffers = this.begun.get(index);
    if (buffers === undefined) this.begun.set(index, (buffers = buffersOf(index)));
    return { ...this.runs.coded(index), ...buffers };
  }
}
