/** Container bytes → symbols, canonical nibbles or patches: whole sets, single tensors, or a check with the memory of a few tensors. */
import { byteSource, type ByteSource } from './byte-source.js';
import { readContainer, type Container, type ReadOptions } from './container.js';
import { combineTensorDigests, TensorHash } from './content-digest.js';
import type { DecodeContext, Needs, TensorPatch } from './context.js';
import { crc32c } from './crc32c.js';
import { decodeDense, type ChunkCoding } from './dense-chunk.js';
import { CodecError } from './errors.js';
import { fastCoders } from './fast-coders.js';
import { decodePatchFast, FastMasks, packedParent, unpacked, UnsoundChunk } from './fast-masks.js';
import type { TensorSources } from './group-contexts.js';
import type { ChunkPlan, TensorEntry } from './layout.js';
import type { Digest, Mask, MaskSet } from './mask-set.js';
import { decodePatchChunk, type Changes } from './patch-chunk.js';
import { canonicalBytes, NIBBLE_OF_SYMBOL, symbolsToNibbles } from './pattern.js';
import { rankGroups, symbolOfRanks, type ColumnScales } from './ranks.js';
import { decodeScales, scalesOfSymbols } from './scales.js';
import { summarize, type ContainerSummary } from './summary.js';
import { decodeUniform } from './uniform-ac.js';

export type { ContainerSummary, TensorSummary } from './summary.js';

export interface DecodeOptions extends ReadOptions {
  /** What the container needs: parent and weights. Missing ones are refused when a symbol depends on them. */
  readonly context?: DecodeContext;
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
  private readonly source: ByteSource;
  private readonly container: Container;
  private readonly context: DecodeContext;
  /** Summary index → index in the order of coding. */
  private readonly order: readonly number[];
  /** Chunks that hold symbols of a tensor, by index in the order of coding. */
  private readonly chunksOf: readonly (readonly number[])[];
  private readonly parentMasks: ReadonlyMap<string, Mask>;
  private scales: ReadonlyMap<number, ColumnScales> | undefined;
  /** The chunks decoded last, the latest at the end. */
  private readonly recent = new Map<number, readonly DecodedPart[]>();
  /** Where there are native coders, and the set is 2:4. */
  private fast: FastMasks | undefined;

  /** Throws CodecError: every code of FORMAT.md §12 up to `payload-length`, but for `parent-missing`. */
  constructor(source: Uint8Array | ByteSource, options: DecodeOptions = {}) {
    this.source = byteSource(source);
    this.context = options.context ?? {};
    const { parent } = this.context;
    this.container = readContainer(this.source, options, parent);
    this.parentMasks = new Map(parent?.masks.map((mask) => [mask.name, mask]));
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
    if (fast !== undefined && nibbles !== undefined) return unpacked(fast, nibbles, tensor.groups);
    if (tensor.coder.form === 'none') return this.magnitude(coded, tensor);
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
    const digests = this.knownTensors().map((tensor, coded) => {
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
      fast.applyChanges(mask, packedParent(fast, this.parentSymbols(tensor)), groups, changes.groups, codes);
      return mask;
    }
    if (coder.form === 'none') {
      const mask = new Uint8Array(canonicalBytes(patterns, groups));
      fast.magnitudeMask({ coder: coder.id, groups, cols, weights: this.weightsOf(tensor), mask });
      return mask;
    }
    this.fast ??= new FastMasks(this.container, this.source, fast, (index) => this.sources(index));
    const chunks = this.chunksOf[coded]!;
    try {
      return this.fast.nibbles(coded, chunks[0]!, chunks.length);
    } catch (error) {
      if (!(error instanceof UnsoundChunk)) throw error;
      const { chunk, reason, bytes } = error;
      throw reason === 'checksum' ? this.badChecksum(chunk, bytes) : overrun(chunk, bytes.length);
    }
  }

  /** What the chunks of a tensor are written over: the parent's symbols for a patch. */
  private startOf(tensor: TensorEntry): Uint8Array {
    return tensor.coder.form === 'patch' ? this.parentSymbols(tensor).slice() : new Uint8Array(tensor.groups);
  }

  private magnitude(coded: number, tensor: TensorEntry): Uint8Array {
    const { patterns } = this.container.header;
    const { weights } = this.sources(coded);
    const { order } = rankGroups(weights as Uint16Array, patterns, { first: 0, count: tensor.groups });
    return Uint8Array.from({ length: tensor.groups }, (_, i) => symbolOfRanks(patterns, order, i * patterns.m, 0));
  }

  private storedChanges(coded: number): Changes {
    const [part] = this.partsOf(coded);
    return { groups: part?.changed ?? new Uint32Array(0), symbols: part?.symbols ?? new Uint8Array(0) };
  }

  private comparedChanges(index: number, tensor: TensorEntry): Changes {
    const parent = this.parentSymbols(tensor);
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
    const bytes = this.readChunk(chunk);
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
    const changes = fast && decodePatchFast(fast, bytes, tensors, coding);
    return changes ?? decodePatchChunk(bytes, tensors, coding);
  }

  private readChunk(chunk: number): Uint8Array {
    const { offsets, checksums } = this.container.chunks;
    const start = offsets[chunk]!;
    // A copy: the next read, of scales say, may reuse its bytes.
    const bytes = this.source.read(start, offsets[chunk + 1]! - start).slice();
    if (crc32c(bytes) !== checksums[chunk]) throw this.badChecksum(chunk, bytes);
    return bytes;
  }

  private badChecksum(chunk: number, bytes: Uint8Array): CodecError {
    const expected = this.container.chunks.checksums[chunk];
    return new CodecError(
      'chunk-checksum',
      `expected chunk ${chunk} to have the checksum ${expected}, got ${crc32c(bytes)}: the file is damaged, fetch it again`,
    );
  }

  private coding(): ChunkCoding {
    const { header, models } = this.container;
    const sources = (tensor: number): TensorSources => this.sources(tensor);
    return { patterns: header.patterns, tensors: this.knownTensors(), models, sources };
  }

  /** What the coder of a tensor needs. Throws CodecError `parent-missing`, `weights-missing`, `weights-mismatch`. */
  private sources(coded: number): TensorSources {
    const tensor = this.knownTensors()[coded]!;
    const { needsParent, needsWeights, codes } = tensor.coder;
    return {
      ...(needsParent ? { parent: this.parentSymbols(tensor) } : {}),
      ...(needsWeights ? { weights: this.weightsOf(tensor) } : {}),
      ...(codes === 'scaled ranks' ? { scales: this.scalesOf(coded) } : {}),
    };
  }

  private parentSymbols(tensor: TensorEntry): Uint8Array {
    if (this.context.parent === undefined) throw parentMissing(this.summary.parent);
    const mask = this.parentMasks.get(tensor.name);
    if (mask?.rows !== tensor.rows || mask.cols !== tensor.cols) {
      throw new CodecError(
        'parent-mismatch',
        `expected a parent with ${tensor.name} of ${tensor.rows} × ${tensor.cols}, got ${mask === undefined ? 'none' : `${mask.rows} × ${mask.cols}`}`,
      );
    }
    return mask.symbols;
  }

  private weightsOf({ name, rows, cols, coder }: TensorEntry): Uint16Array {
    const weights = this.context.weights?.(name);
    if (weights === undefined) {
      throw new CodecError(
        'weights-missing',
        `expected the frozen weights of ${name}, which ${coder.name} needs, got none: decode it beside its model`,
      );
    }
    if (weights.length !== rows * cols) {
      throw new CodecError('weights-mismatch', `expected ${rows} × ${cols} weights of ${name}, got ${weights.length}`);
    }
    return weights;
  }

  private scalesOf(coded: number): ColumnScales {
    this.scales ??= this.readScales();
    return this.scales.get(coded) as ColumnScales;
  }

  private readScales(): ReadonlyMap<number, ColumnScales> {
    const { plans, models } = this.container;
    const plan = plans?.[0];
    if (plan?.kind !== 'scales') throw new RangeError('expected a chunk of scales first');
    const tensors = this.knownTensors();
    const table = models.get(tensors[plan.tensors[0]!]!.coder)?.single;
    const bytes = this.readChunk(0);
    const cols = plan.tensors.map((tensor) => tensors[tensor]!.cols);
    const scales = table && decodeScales(bytes, cols, table);
    if (scales === undefined) throw overrun(0, bytes.length);
    return new Map(plan.tensors.map((tensor, i) => [tensor, scalesOfSymbols(scales[i]!)]));
  }

  private tensor(index: number): { coded: number; tensor: TensorEntry } {
    const tensors = this.knownTensors();
    const coded = this.order[index];
    if (coded === undefined) throw new RangeError(`expected a tensor index below ${tensors.length}, got ${index}`);
    return { coded, tensor: tensors[coded]! };
  }

  private knownTensors(): readonly TensorEntry[] {
    const { tensors } = this.container;
    if (tensors === undefined) throw parentMissing(this.container.header.parent);
    return tensors;
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

export function parentMissing(parent: Digest | undefined): CodecError {
  return new CodecError(
    'parent-missing',
    `expected the parent mask set ${parent ?? '(none named)'}, which this one is coded against, got none: provide it first`,
  );
}

/** Inherited tensors are shown in the parent's order, which models use them in; coded they are sorted by name. */
function presentationOrder({ tensors, header }: Container, parent: MaskSet | undefined): number[] {
  if (tensors === undefined) return [];
  if (!header.inherits || parent === undefined) return [...tensors.keys()];
  const coded = new Map(tensors.map(({ name }, i) => [name, i]));
  return parent.masks.map(({ name }) => coded.get(name) as number);
}

function chunksByTensor({ tensors = [], plans = [] }: Container): number[][] {
  const chunks: number[][] = tensors.map(() => []);
  plans.forEach((plan, chunk) => {
    if (plan.kind === 'arithmetic') chunks[plan.piece.tensor]!.push(chunk);
    if (plan.kind === 'dense') for (const { tensor } of plan.pieces) chunks[tensor]!.push(chunk);
    if (plan.kind === 'patch') for (const tensor of plan.tensors) chunks[tensor]!.push(chunk);
  });
  return chunks;
}

function overrun(chunk: number, bytes: number): CodecError {
  return new CodecError(
    'symbol-overrun',
    `expected chunk ${chunk} to end with its last symbol, got ${bytes} bytes that do not: the writer of this file is at fault`,
  );
}
