/** Container bytes → symbols, canonical nibbles or patches: whole sets, single tensors, or a check with the memory of a few tensors. */
import { byteSource, type ByteSource } from './byte-source.js';
import { readContainer, type Container, type ReadOptions } from './container.js';
import { combineTensorDigests, TensorHash } from './content-digest.js';
import type { DecodeContext, Needs, TensorPatch } from './context.js';
import { ChunkSource, overrun } from './chunk-source.js';
import { DecoderInputs, parentMissing, type NativeInputs } from './decoder-inputs.js';
import { decodeDense, type ChunkCoding } from './dense-chunk.js';
import { DenseRuns } from './dense-run.js';
import { CodecError } from './errors.js';
import { FastCompaction, type CompactionBuffers } from './fast-compaction.js';
import { fastCoders, packedSymbols, unpackedNibbles, type FastCoders } from './fast-coders.js';
import { FastMasks } from './fast-masks.js';
import { decodePatchFast } from './fast-patches.js';
import type { TensorSources } from './group-contexts.js';
import type { ChunkPlan, TensorEntry } from './layout.js';
import type { Mask, MaskSet } from './mask-set.js';
import { decodePatchChunk, type Changes } from './patch-chunk.js';
import { canonicalBytes, NIBBLE_OF_SYMBOL, symbolsToNibbles } from './pattern.js';
import { rankGroups, symbolOfRanks } from './ranks.js';
import { chunksByTensor, presentationOrder } from './reading-order.js';
import { summarize, type ContainerSummary } from './summary.js';
import { decodeUniform } from './uniform-ac.js';

export type { ContainerSummary, TensorSummary } from './summary.js';

export interface DecodeOptions extends ReadOptions {
  /** What the container needs: parent and weights. Missing ones are refused when a symbol depends on them. */
  readonly context?: DecodeContext;
}

/** Compaction of the tensors that it covers, in the order of coding: after `upTo`, those and all coded before them are compacted. */
export interface TensorCompaction {
  readonly covers: (index: number) => boolean;
  /** Returns what share of the time went into compacting. Throws CodecError as `nibbles` does. */
  readonly upTo: (indices: readonly number[]) => number;
}

/** Decoded chunks that are kept: inherited tensors are coded by name, and a model uses them in another order. */
const RECENT_CHUNKS = 3;
/** Symbols, an even number: so that the canonical codes of a large matrix are never all in memory. */
const HASHED_AT_ONCE = 65536;

/** Symbols of one tensor that a chunk holds: dense ones from `first`, or changes. */
interface DecodedPart {
  readonly tensor: number;
  readonly first: number;
  readonly symbols: Uint8Array;
  readonly changed?: Uint32Array;
}

/**
 * Reads a container in memory or on disk (`fileSource`). The constructor reads and checks all but the payload; symbols are
 * decoded when asked for, a chunk at a time, and the last chunks are remembered, so that tensors read in their order decode each chunk once.
 */
export class ContainerReader {
  readonly summary: ContainerSummary;
  private readonly container: Container;
  private readonly chunks: ChunkSource;
  private readonly inputs: DecoderInputs;
  /** Summary index → index in the order of coding. */
  private readonly order: readonly number[];
  /** Chunks that hold symbols of a tensor, by index in the order of coding. */
  private readonly chunksOf: readonly (readonly number[])[];
  /** The chunks decoded last, the latest at the end. */
  private readonly recent = new Map<number, readonly DecodedPart[]>();
  /** Where there are native coders, and the set is 2:4. */
  private fast: FastMasks | undefined;

  /** Throws CodecError: every code of FORMAT.md §12 up to `payload-length`, but for `parent-missing`. */
  constructor(source: Uint8Array | ByteSource, options: DecodeOptions = {}) {
    const bytes = byteSource(source);
    const { context = {} } = options;
    const { parent } = context;
    this.container = readContainer(bytes, options, parent);
    this.chunks = new ChunkSource(bytes, this.container);
    this.inputs = new DecoderInputs(this.container, context, this.chunks);
    this.chunksOf = chunksByTensor(this.container);
    this.order = presentationOrder(this.container, parent);
    this.summary = summarize(this.container, this.order);
  }

  /** What decoding needs: known without having it. */
  get needs(): Needs {
    return this.container.needs;
  }

  /** Index of a tensor by name; undefined if the set has no such tensor. */
  indexOf(name: string): number | undefined {
    const index = this.summary.tensors.findIndex((tensor) => tensor.name === name);
    return index < 0 ? undefined : index;
  }

  /**
   * Symbols of a tensor (rows · cols/m), row by row. Throws CodecError `parent-missing`, `weights-missing`, `weights-mismatch`,
   * `chunk-checksum`, `patch-position`, `symbol-overrun`.
   */
  symbols(index: number): Uint8Array {
    const { coded, tensor } = this.tensor(index);
    const fast = fastCoders();
    const nibbles = this.fastNibbles(coded, tensor);
    if (fast !== undefined && nibbles !== undefined) return unpackedNibbles(fast, nibbles, tensor.groups);
    if (tensor.coder.form === 'none') return this.magnitude(tensor);
    const out = this.startOf(tensor);
    for (const { first, symbols, changed } of this.partsOf(coded)) {
      if (changed === undefined) out.set(symbols, first);
      else changed.forEach((group, i) => (out[group] = symbols[i]!));
    }
    return out;
  }

  /**
   * Canonical 2:4 nibbles of a tensor (⌈rows · cols/8⌉ bytes), two groups a byte, low nibble first: `meta` of `compress24`.
   * Throws CodecError `unsupported-pattern` for another n:m, and as `symbols` does.
   */
  nibbles(index: number): Uint8Array {
    const { patterns } = this.container.header;
    if (patterns.n !== 2 || patterns.m !== 4) {
      throw new CodecError('unsupported-pattern', `expected a 2:4 mask set, got ${patterns.n}:${patterns.m}`);
    }
    const { coded, tensor } = this.tensor(index);
    return (
      this.fastNibbles(coded, tensor) ??
      symbolsToNibbles(this.symbols(index), new Uint8Array(canonicalBytes(patterns, tensor.groups)))
    );
  }

  /**
   * The changed groups of a tensor against the parent. Of a patch, only they are decoded; other coders are decoded and compared.
   * Throws CodecError `parent-missing`, `parent-mismatch`, and as `symbols` does.
   */
  patch(index: number): TensorPatch {
    const { coded, tensor } = this.tensor(index);
    const { groups, symbols } =
      tensor.coder.form === 'patch' ? this.storedChanges(coded) : this.comparedChanges(index, tensor);
    const { patterns } = this.container.header;
    const codes = patterns.n === 2 ? symbols.map((symbol) => NIBBLE_OF_SYMBOL[symbol]!) : symbols;
    return { name: tensor.name, rows: tensor.rows, cols: tensor.cols, groups, codes };
  }

  /**
   * Compacts tensors straight from their chunks, where native coders can: undefined where they can't for any. `buffersOf` gives what a tensor is
   * compacted from and to. Indices are the summary's.
   */
  compaction(buffersOf: (index: number) => CompactionBuffers): TensorCompaction | undefined {
    const fast = fastCoders();
    const { patterns } = this.container.header;
    if (fast === undefined || patterns.n !== 2 || patterns.m !== 4) return undefined;
    const tensors = this.inputs.tensors();
    const compaction = new FastCompaction(this.denseRuns(fast), fast, this.chunksOf);
    const shown = new Map(this.order.map((coded, index) => [coded, index]));
    const covers = (index: number): boolean => tensors[this.order[index]!]!.coder.form === 'dense';
    if (!compaction.possible || !this.order.some((_, index) => covers(index))) return undefined;
    const upTo = (indices: readonly number[]): number => {
      const last = Math.max(...indices.map((index) => this.order[index]!));
      return compaction.upTo(last, (coded) => buffersOf(shown.get(coded) as number));
    };
    return { covers, upTo };
  }

  /** Decodes everything, a tensor at a time, and compares the content digest: what every upload goes through. Throws as `maskSet` does. */
  check(): void {
    this.compareContent(() => undefined);
  }

  /** The whole set, its content digest compared. Throws CodecError as `symbols` does, and `content-mismatch`. */
  maskSet(): MaskSet {
    const masks: Mask[] = [];
    this.compareContent(({ name, rows, cols }, symbols, index) => (masks[index] = { name, rows, cols, symbols }));
    const { n, m, base, parent } = this.summary;
    return { n, m, base, ...(parent === undefined ? {} : { parent }), masks };
  }

  /** In the order of coding, so that each chunk is decoded once. */
  private compareContent(use: (tensor: TensorEntry, symbols: Uint8Array, index: number) => void): void {
    const { header } = this.container;
    const indexOfCoded = new Map(this.order.map((coded, index) => [coded, index]));
    const digests = this.inputs.tensors().map((tensor, coded) => {
      const index = indexOfCoded.get(coded) as number;
      const hash = new TensorHash(header.patterns, tensor.name, tensor.rows, tensor.cols);
      const symbols = this.symbols(index);
      for (let at = 0; at < symbols.length; at += HASHED_AT_ONCE)
        hash.update(symbols.subarray(at, at + HASHED_AT_ONCE));
      use(tensor, symbols, index);
      return hash.digest();
    });
    const content = combineTensorDigests(header.base, header.patterns, digests);
    if (content !== header.content) {
      const whose = this.needs.parent === undefined ? '' : ', or parent or weights are not those that it was made with';
      throw new CodecError(
        'content-mismatch',
        `expected masks with the content digest ${header.content}, got ${content}: the writer of this file is at fault${whose}`,
      );
    }
  }

  /** By native coders; undefined where there are none for it. */
  private fastNibbles(coded: number, tensor: TensorEntry): Uint8Array | undefined {
    const { patterns } = this.container.header;
    const fast = fastCoders();
    if (fast === undefined || patterns.n !== 2 || patterns.m !== 4) return undefined;
    const { coder, groups, cols } = tensor;
    if (coder.form === 'patch') {
      const changes = this.storedChanges(coded);
      const mask = new Uint8Array(canonicalBytes(patterns, groups));
      const codes = changes.symbols.map((symbol) => NIBBLE_OF_SYMBOL[symbol]!);
      fast.applyChanges(mask, packedSymbols(fast, this.inputs.parentSymbols(tensor)), groups, changes.groups, codes);
      return mask;
    }
    if (coder.form === 'none') {
      const mask = new Uint8Array(canonicalBytes(patterns, groups));
      fast.magnitudeMask({ coder: coder.id, groups, cols, weights: this.inputs.nativeWeights(tensor), mask });
      return mask;
    }
    this.fast ??= new FastMasks(this.denseRuns(fast), fast);
    const chunks = this.chunksOf[coded]!;
    return this.fast.nibbles(coded, chunks[0]!, chunks.length);
  }

  private denseRuns(fast: FastCoders): DenseRuns {
    return new DenseRuns(this.container, this.chunks, this.inputs, fast);
  }

  /** What the chunks of a tensor are written over: the parent's symbols for a patch. */
  private startOf(tensor: TensorEntry): Uint8Array {
    return tensor.coder.form === 'patch' ? this.inputs.parentSymbols(tensor).slice() : new Uint8Array(tensor.groups);
  }

  private magnitude(tensor: TensorEntry): Uint8Array {
    const { patterns } = this.container.header;
    const { order } = rankGroups(this.inputs.weights(tensor), patterns, { first: 0, count: tensor.groups });
    return Uint8Array.from({ length: tensor.groups }, (_, i) => symbolOfRanks(patterns, order, i * patterns.m, 0));
  }

  private storedChanges(coded: number): Changes {
    const [part] = this.partsOf(coded);
    return { groups: part?.changed ?? new Uint32Array(0), symbols: part?.symbols ?? new Uint8Array(0) };
  }

  private comparedChanges(index: number, tensor: TensorEntry): Changes {
    const parent = this.inputs.parentSymbols(tensor);
    const symbols = this.symbols(index);
    const changed: number[] = [];
    symbols.forEach((symbol, group) => {
      if (symbol !== parent[group]) changed.push(group);
    });
    const groups = Uint32Array.from(changed);
    return { groups, symbols: Uint8Array.from(groups, (group) => symbols[group]!) };
  }

  /** The parts of a tensor, in order. */
  private *partsOf(coded: number): Generator<DecodedPart, void, undefined> {
    for (const chunk of this.chunksOf[coded]!) {
      for (const part of this.decodeChunk(chunk)) if (part.tensor === coded) yield part;
    }
  }

  private decodeChunk(chunk: number): readonly DecodedPart[] {
    const known = this.recent.get(chunk);
    if (known !== undefined) return known;
    const bytes = this.chunks.read(chunk);
    const parts = this.decodeParts(bytes, (this.container.plans as readonly ChunkPlan[])[chunk]!);
    if (parts === undefined) throw overrun(chunk, bytes.length);
    this.recent.set(chunk, parts);
    for (const oldest of this.recent.keys()) if (this.recent.size > RECENT_CHUNKS) this.recent.delete(oldest);
    return parts;
  }

  /** undefined: the chunk does not end with its last symbol. */
  private decodeParts(bytes: Uint8Array, plan: ChunkPlan): DecodedPart[] | undefined {
    const coding = this.coding();
    switch (plan.kind) {
      case 'scales':
        return [];
      case 'dense':
        return decodeDense(bytes, plan.lanes, plan.pieces, coding)?.map((symbols, i) => ({
          ...plan.pieces[i]!,
          symbols,
        }));
      case 'patch':
        return this.decodePatch(bytes, plan.tensors, coding)?.map(({ groups, symbols }, i) => ({
          tensor: plan.tensors[i]!,
          first: 0,
          symbols,
          changed: groups,
        }));
      case 'arithmetic': {
        const symbols = new Uint8Array(plan.piece.count);
        return decodeUniform(bytes, coding.patterns.count, symbols) ? [{ ...plan.piece, symbols }] : undefined;
      }
    }
  }

  private decodePatch(bytes: Uint8Array, tensors: readonly number[], coding: ChunkCoding): Changes[] | undefined {
    const fast = coding.patterns.n === 2 ? fastCoders() : undefined;
    const inputs = (tensor: number): NativeInputs => this.inputs.native(tensor, fast as FastCoders);
    const changes = fast && decodePatchFast(fast, bytes, tensors, { ...coding, inputs });
    return changes ?? decodePatchChunk(bytes, tensors, coding);
  }

  private coding(): ChunkCoding {
    const { header, models } = this.container;
    const sources = (tensor: number): TensorSources => this.inputs.of(tensor);
    return { patterns: header.patterns, tensors: this.inputs.tensors(), models, sources };
  }

  private tensor(index: number): { coded: number; tensor: TensorEntry } {
    const tensors = this.inputs.tensors();
    const coded = this.order[index];
    if (coded === undefined) throw new RangeError(`expected a tensor index below ${tensors.length}, got ${index}`);
    return { coded, tensor: tensors[coded]! };
  }
}

/** Decodes a whole set and compares its content digest. Throws CodecError: any code that FORMAT.md §12 gives a file. */
export function decodeMaskSet(source: Uint8Array | ByteSource, options: DecodeOptions = {}): MaskSet {
  return new ContainerReader(source, options).maskSet();
}

/**
 * The changed groups of every tensor against the parent, tensors in the parent's order, for whoever patches what it made of the parent. Of
 * patches only they are decoded. Throws CodecError as `ContainerReader.patch` does.
 */
export function decodePatch(source: Uint8Array | ByteSource, context: DecodeContext): TensorPatch[] {
  const reader = new ContainerReader(source, { context });
  if (context.parent === undefined) throw parentMissing(reader.summary.parent);
  return reader.summary.tensors.map((_, index) => reader.patch(index));
}

/**
 * Checks a whole container, payload and content digest included, a tensor at a time.
 * Throws CodecError: any code that FORMAT.md §12 gives a file.
 */
export function checkContainer(source: Uint8Array | ByteSource, options: DecodeOptions = {}): ContainerSummary {
  const reader = new ContainerReader(source, options);
  reader.check();
  return reader.summary;
}
