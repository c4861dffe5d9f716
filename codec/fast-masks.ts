/** Chunks through native coders: dense and arithmetic ones to canonical nibbles, a tensor at a time, its chunks in parallel, each decoded once. */
import type { CodedTensor } from '../kernels/codec-types.js';
import type { DenseRuns } from './dense-run.js';
import type { FastCoders } from './fast-coders.js';

export class FastMasks {
  /** Masks begun by chunks before `next`: the tensors that share the last chunk with the one that was asked for. */
  private readonly begun = new Map<number, Uint8Array>();
  private next = 0;

  constructor(
    private readonly runs: DenseRuns,
    private readonly fast: FastCoders,
  ) {}

  /** Nibbles of a tensor with dense or arithmetic chunks, `chunks` of them from the index given. Throws CodecError as DenseRuns.check. */
  nibbles(index: number, first: number, chunks: number): Uint8Array {
    const last = first + chunks - 1;
    if (this.runs.entry(index).coder.form === 'arithmetic') return this.arithmetic(index, first, last);
    let from = first;
    if (this.begun.has(index) && this.next > first) from = this.next;
    else this.begun.clear();
    if (from <= last) this.decodeDense(from, last);
    const mask = this.begun.get(index) as Uint8Array;
    this.begun.delete(index);
    return mask;
  }

  private decodeDense(first: number, last: number): void {
    const members = this.runs.members(first, last);
    const tensors = members.map((index) => this.codedTensor(index, first));
    const chunks = this.runs.read(first, last);
    this.fast.decodeMasks(tensors, this.runs.chunkSteps, this.runs.firstStep(first), chunks);
    try {
      this.runs.check(chunks, first);
    } catch (error) {
      this.begun.clear();
      throw error;
    }
    this.next = last + 1;
    for (const index of this.begun.keys()) if (!members.includes(index)) this.begun.delete(index);
  }

  /** A tensor that began in an earlier chunk which was not kept is decoded for its neighbours' sake only. */
  private codedTensor(index: number, first: number): CodedTensor {
    const { groups } = this.runs.entry(index);
    const startsHere = this.runs.beginsIn(index, first);
    if (startsHere && !this.begun.has(index)) this.begun.set(index, new Uint8Array(Math.ceil(groups / 2)));
    const mask = this.begun.get(index);
    return { ...this.runs.coded(index), ...(mask === undefined ? {} : { mask }) };
  }

  private arithmetic(index: number, first: number, last: number): Uint8Array {
    const { coder, groups, cols } = this.runs.entry(index);
    const mask = new Uint8Array(Math.ceil(groups / 2));
    const chunks = this.runs.read(first, last);
    this.fast.decodeUniformAc({ coder: coder.id, groups, cols, mask }, this.runs.chunkSymbols, chunks);
    this.runs.check(chunks, first);
    return mask;
  }
}
