/** Neighbouring chunks of symbols (FORMAT.md §8.2) as native coders take them: the tensors that they hold something of, and where they begin. */
import {
  CHUNK_CHECKSUM,
  CHUNK_OK,
  type CodedChunks,
  type CodedTensor,
  type FileChunks,
} from '../kernels/codec-types.js';
import { overrun, type ChunkSource } from './chunk-source.js';
import type { Container } from './container.js';
import type { DecoderInputs } from './decoder-inputs.js';
import type { FastCoders } from './fast-coders.js';
import { uniformTables, type FrequencyTables } from './frequency-table.js';
import { LANES, type ChunkPlan, type TensorEntry } from './layout.js';
import { tableList } from './models.js';

export class DenseRuns {
  /** Symbols of every chunk but the last, and steps. */
  readonly chunkSymbols: number;
  readonly chunkSteps: number;
  /** Tensors with dense chunks, in order. */
  readonly tensors: readonly number[];

  /** `container` has tensors and plans, and is 2:4. */
  constructor(
    private readonly container: Container,
    private readonly chunks: ChunkSource,
    private readonly inputs: DecoderInputs,
    private readonly fast: FastCoders,
  ) {
    this.chunkSymbols = 2 ** container.header.chunkLog2;
    this.chunkSteps = this.chunkSymbols / LANES;
    this.tensors = [...this.entries.keys()].filter((index) => this.entry(index).coder.form === 'dense');
  }

  /** Tensors with something in the chunks first … last: neighbours among the dense ones. */
  members(first: number, last: number): readonly number[] {
    const from = this.tensors.indexOf(this.pieces(first)[0]?.tensor ?? -1);
    const to = this.tensors.indexOf(this.pieces(last).at(-1)?.tensor ?? -1);
    return this.tensors.slice(from, to + 1);
  }

  /** Where chunk `first` begins, counted from its first tensor. */
  firstStep(first: number): number {
    return (this.pieces(first)[0]?.first ?? 0) / LANES;
  }

  /** Whether no chunk before `first` holds something of a tensor that `first` holds something of. */
  beginsIn(index: number, first: number): boolean {
    return this.pieces(first).every(({ tensor, first: group }) => tensor !== index || group === 0);
  }

  coded(index: number): CodedTensor {
    const { coder, groups, cols } = this.entry(index);
    return { coder: coder.id, groups, cols, cum: this.tables(index).cum, ...this.inputs.native(index, this.fast) };
  }

  entry(index: number): TensorEntry {
    return this.entries[index] as TensorEntry;
  }

  read(first: number, last: number): CodedChunks {
    return this.chunks.run(first, last);
  }

  readInPlace(first: number, last: number): CodedChunks | FileChunks {
    return this.chunks.runInPlace(first, last);
  }

  /** Throws CodecError `chunk-checksum`, `symbol-overrun` for the first chunk that is not sound; as reading it, where that fails. */
  check({ statuses }: Pick<CodedChunks, 'statuses'>, first: number): void {
    const bad = statuses.findIndex((status) => status !== CHUNK_OK);
    if (bad < 0) return;
    const bytes = this.chunks.raw(first + bad);
    throw statuses[bad] === CHUNK_CHECKSUM
      ? this.chunks.badChecksum(first + bad, bytes)
      : overrun(first + bad, bytes.length);
  }

  private pieces(chunk: number): (ChunkPlan & { kind: 'dense' })['pieces'] {
    const plan = this.container.plans?.[chunk];
    if (plan?.kind !== 'dense') throw new RangeError(`expected chunk ${chunk} to be dense`);
    return plan.pieces;
  }

  private tables(index: number): FrequencyTables {
    const { header, models } = this.container;
    const { coder } = this.entry(index);
    const list = tableList(coder, header.patterns);
    if (list === undefined) throw new RangeError(`expected a coder with tables, got ${coder.name}`);
    return models.get(coder)?.tables ?? uniformTables(list);
  }

  private get entries(): readonly TensorEntry[] {
    return this.container.tensors ?? [];
  }
}
