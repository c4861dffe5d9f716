/**
 * Chunks through native coders: dense and arithmetic ones to canonical nibbles, a tensor at a time, its chunks in parallel, each decoded once;
 * patches to changes.
 */
import { CHUNK_CHECKSUM, CHUNK_OK, type CodedChunks, type CodedTensor } from '../kernels/codec-types.js';
import type { ByteSource } from './byte-source.js';
import type { ChunkCoding } from './dense-chunk.js';
import type { Container } from './container.js';
import type { FastCoders } from './fast-coders.js';
import { uniformTables, type FrequencyTables } from './frequency-table.js';
import type { TensorSources } from './group-contexts.js';
import { LANES, type ChunkPlan, type TensorEntry } from './layout.js';
import { tableList, type Model } from './models.js';
import type { Changes } from './patch-chunk.js';
import { NIBBLE_OF_SYMBOL } from './pattern.js';

/** Changes that no chunk has. */
const WHOLE_CHUNK = 2 ** 40;
const SYMBOL_OF_NIBBLE = Uint8Array.from({ length: 16 }, (_, nibble) => Math.max(0, NIBBLE_OF_SYMBOL.indexOf(nibble)));

/** A chunk that is not sound, by its index in the file. */
export class UnsoundChunk extends Error {
  constructor(
    readonly chunk: number,
    readonly reason: 'checksum' | 'overrun',
    readonly bytes: Uint8Array,
  ) {
    super(`chunk ${chunk} is unsound`);
  }
}

export class FastMasks {
  /** Masks begun by chunks before `next`: the tensors that share the last chunk with the one that was asked for. */
  private readonly begun = new Map<number, Uint8Array>();
  private next = 0;
  /** Tensors with dense chunks, in order. */
  private readonly dense: readonly number[];
  private readonly firstDense: number;

  /** `sources` gives what a tensor's coder needs; `container` has tensors and plans, and is 2:4. */
  constructor(
    private readonly container: Container,
    private readonly source: ByteSource,
    private readonly fast: FastCoders,
    private readonly sources: (tensor: number) => TensorSources,
  ) {
    this.dense = [...this.tensors.keys()].filter((index) => this.tensors[index]?.coder.form === 'dense');
    this.firstDense = this.plans.findIndex((plan) => plan.kind === 'dense');
  }

  /** Nibbles of a tensor with dense or arithmetic chunks, `chunks` of them from the index given. Throws UnsoundChunk. */
  nibbles(index: number, first: number, chunks: number): Uint8Array {
    const tensor = this.tensors[index] as TensorEntry;
    if (tensor.coder.form === 'arithmetic') return this.arithmetic(tensor, first, chunks);
    const last = first + chunks - 1;
    let from = first;
    if (this.begun.has(index) && this.next > first) from = this.next;
    else this.begun.clear();
    if (from <= last) this.decodeDense(from, last);
    const mask = this.begun.get(index) as Uint8Array;
    this.begun.delete(index);
    return mask;
  }

  private decodeDense(first: number, last: number): void {
    const members = this.membersOf(first, last);
    const tensors = members.map((index) => this.codedTensor(index, first));
    const [start] = this.piecesOf(first);
    const chunkSteps = 2 ** this.container.header.chunkLog2 / LANES;
    const chunks = this.read(first, last);
    this.fast.decodeMasks(tensors, chunkSteps, (start?.first ?? 0) / LANES, chunks);
    this.check(chunks, first);
    this.next = last + 1;
    for (const index of this.begun.keys()) if (!members.includes(index)) this.begun.delete(index);
  }

  /** A tensor that began in an earlier chunk which was not kept is decoded for its neighbours' sake only. */
  private codedTensor(index: number, first: number): CodedTensor {
    const { coder, groups, cols } = this.tensors[index] as TensorEntry;
    const { parent, weights, scales } = this.sources(index);
    const startsHere = this.piecesOf(first).every(({ tensor, first: group }) => tensor !== index || group === 0);
    if (startsHere && !this.begun.has(index)) this.begun.set(index, new Uint8Array(Math.ceil(groups / 2)));
    const mask = this.begun.get(index);
    return {
      coder: coder.id,
      groups,
      cols,
      cum: this.tables(index).cum,
      ...(weights === undefined ? {} : { weights }),
      ...(scales === undefined ? {} : { scales: scales.byColumn }),
      ...(parent === undefined ? {} : { parent: packedParent(this.fast, parent) }),
      ...(mask === undefined ? {} : { mask }),
    };
  }

  private tables(index: number): FrequencyTables {
    const { header, models } = this.container;
    const { coder } = this.tensors[index] as TensorEntry;
    const list = tableList(coder, header.patterns);
    if (list === undefined) throw new RangeError(`expected a coder with tables, got ${coder.name}`);
    return models.get(coder)?.tables ?? uniformTables(list);
  }

  private arithmetic(tensor: TensorEntry, first: number, count: number): Uint8Array {
    const mask = new Uint8Array(Math.ceil(tensor.groups / 2));
    const chunks = this.read(first, first + count - 1);
    const { coder, groups, cols } = tensor;
    this.fast.decodeUniformAc({ coder: coder.id, groups, cols, mask }, 2 ** this.container.header.chunkLog2, chunks);
    this.check(chunks, first);
    return mask;
  }

  private read(first: number, last: number): CodedChunks {
    const { offsets, checksums } = this.container.chunks;
    const start = offsets[first] ?? 0;
    const count = last - first + 1;
    return {
      payload: this.source.read(start, (offsets[last + 1] ?? 0) - start),
      lengths: Uint32Array.from({ length: count }, (_, i) => (offsets[first + i + 1] ?? 0) - (offsets[first + i] ?? 0)),
      checksums: checksums.slice(first, last + 1),
      statuses: new Int32Array(count),
    };
  }

  private check({ payload, lengths, statuses }: CodedChunks, first: number): void {
    const bad = statuses.findIndex((status) => status !== CHUNK_OK);
    if (bad < 0) return;
    this.begun.clear();
    const at = lengths.subarray(0, bad).reduce((sum, length) => sum + length, 0);
    const bytes = payload.slice(at, at + (lengths[bad] ?? 0));
    throw new UnsoundChunk(first + bad, statuses[bad] === CHUNK_CHECKSUM ? 'checksum' : 'overrun', bytes);
  }

  /** Tensors with something in the dense chunks first … last: neighbours among the dense ones. */
  private membersOf(first: number, last: number): number[] {
    const from = this.dense.indexOf(this.piecesOf(first)[0]?.tensor ?? -1);
    const to = this.dense.indexOf(this.piecesOf(last).at(-1)?.tensor ?? -1);
    return this.dense.slice(from, to + 1);
  }

  private piecesOf(chunk: number): (ChunkPlan & { kind: 'dense' })['pieces'] {
    const plan = this.plans[chunk];
    if (plan?.kind !== 'dense' || chunk < this.firstDense) throw new RangeError(`expected chunk ${chunk} to be dense`);
    return plan.pieces;
  }

  private get tensors(): readonly TensorEntry[] {
    return this.container.tensors ?? [];
  }

  private get plans(): readonly ChunkPlan[] {
    return this.container.plans ?? [];
  }
}

/**
 * The changes of each tensor of a patch chunk whose bytes are what was written; undefined if they are not sound (`decodePatchChunk` then says
 * why), or if the chunk's tensors have different coders, whose gap tables differ too: native code takes one.
 */
export function decodePatchFast(
  fast: FastCoders,
  chunk: Uint8Array,
  indices: readonly number[],
  { tensors, models, sources }: ChunkCoding,
): Changes[] | undefined {
  const [first] = new Set(indices.map((index) => (tensors[index] as TensorEntry).coder));
  if (first === undefined || indices.some((index) => tensors[index]?.coder !== first)) return undefined;
  const coded = indices.map((index) => {
    const { coder, groups, cols, changes } = tensors[index] as TensorEntry;
    const { parent, weights } = sources(index);
    return {
      coder: coder.id,
      groups,
      cols,
      changes,
      cum: (models.get(coder) as Model).tables.cum,
      parent: packedParent(fast, parent as Uint8Array),
      ...(weights === undefined ? {} : { weights }),
      positions: new Uint32Array(changes),
      codes: new Uint8Array(changes),
    };
  });
  const { single } = models.get(first) as Model;
  const statuses = new Int32Array(1);
  const chunks = { lengths: Uint32Array.of(chunk.length), checksums: Uint32Array.of(fast.crc32c(chunk)), statuses };
  fast.decodePatches(coded, WHOLE_CHUNK, (single as FrequencyTables).cum, { payload: chunk, ...chunks });
  if (statuses[0] !== CHUNK_OK) return undefined;
  return coded.map(({ positions, codes }) => ({
    groups: positions,
    symbols: codes.map((code) => SYMBOL_OF_NIBBLE[code] ?? 0),
  }));
}

const parents = new WeakMap<Uint8Array, Uint8Array>();

/** Nibbles of a parent's symbols, which many children share: kept as long as the symbols are. Not to be written to. */
export function packedParent(fast: FastCoders, symbols: Uint8Array): Uint8Array {
  const known = parents.get(symbols);
  if (known !== undefined) return known;
  const nibbles = new Uint8Array(Math.ceil(symbols.length / 2));
  fast.packSymbols(nibbles, symbols);
  parents.set(symbols, nibbles);
  return nibbles;
}

/** Nibbles of `groups` groups → symbols, by native code. */
export function unpacked(fast: FastCoders, nibbles: Uint8Array, groups: number): Uint8Array {
  const symbols = new Uint8Array(groups);
  fast.unpackSymbols(symbols, nibbles);
  return symbols;
}
