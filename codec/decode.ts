/** Container bytes → symbols or canonical nibbles: whole sets, single tensors, or a check with the memory of one chunk. */
import { byteSource, type ByteSource } from './byte-source.js';
import { readContainer, type Container, type ReadOptions } from './container.js';
import { combineTensorDigests, TensorHash } from './content-digest.js';
import { crc32c } from './crc32c.js';
import { CodecError } from './errors.js';
import { FORMAT_VERSION } from './fixed-header.js';
import type { Digest, Mask, MaskSet } from './mask-set.js';
import { canonicalBytes, symbolsToNibbles } from './pattern.js';
import { symbolsOfChunk, type TensorEntry } from './tables.js';

/** What a container's header says. Nothing of it was decoded. */
export interface ContainerSummary {
  readonly version: number;
  readonly n: number;
  readonly m: number;
  readonly base: Digest;
  readonly parent: Digest | undefined;
  /** Content digest (FORMAT.md §8): what a child names as its parent. */
  readonly content: Digest;
  /** Weights covered: the sum of rows · cols. */
  readonly parameters: number;
  readonly fileBytes: number;
  /** Coded chunks alone. */
  readonly payloadBytes: number;
  /** 8 · fileBytes / parameters */
  readonly bitsPerParameter: number;
  readonly chunkSymbols: number;
  readonly tensors: readonly TensorSummary[];
}

export interface TensorSummary {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  readonly groups: number;
  /** Name of the coder. */
  readonly coder: string;
  readonly chunks: number;
  /** Of its chunks together. */
  readonly payloadBytes: number;
}

/**
 * Reads a container in memory or on disk (`fileSource`). The constructor reads and checks all but the payload; symbols are
 * decoded when asked for, a chunk at a time. Every chunk was then found long enough for its symbols, so that what is allocated for
 * a chunk is at most 4.1 times its bytes in the file (3.1 for 2:4) and 36.
 */
export class ContainerReader {
  readonly summary: ContainerSummary;
  private readonly source: ByteSource;
  private readonly container: Container;
  /** Symbols of one chunk. */
  private scratch = new Uint8Array(0);

  /** Throws CodecError: every code of FORMAT.md §10 up to `payload-length`. */
  constructor(source: Uint8Array | ByteSource, options: ReadOptions = {}) {
    this.source = byteSource(source);
    this.container = readContainer(this.source, options);
    this.summary = summarize(this.container);
  }

  /** Index of a tensor by name; undefined if the set has no such tensor. */
  indexOf(name: string): number | undefined {
    const index = this.container.tensors.findIndex((tensor) => tensor.name === name);
    return index < 0 ? undefined : index;
  }

  /** Symbols of a tensor (rows · cols/m), row by row. Throws CodecError `chunk-checksum`, `symbol-overrun`. */
  symbols(index: number): Uint8Array {
    const tensor = this.tensor(index);
    const out = new Uint8Array(tensor.groups);
    let at = 0;
    for (let i = 0; i < tensor.chunks; i++) {
      const count = this.chunkSymbols(tensor, i);
      this.decodeChunk(tensor, i, out.subarray(at, at + count));
      at += count;
    }
    return out;
  }

  /**
   * Canonical 2:4 nibbles of a tensor (⌈rows · cols/8⌉ bytes), two groups a byte, low nibble first: `meta` of `compress24`.
   * Throws CodecError `unsupported-pattern` for another n:m, `chunk-checksum`, `symbol-overrun`.
   */
  nibbles(index: number): Uint8Array {
    const { patterns } = this.container.header;
    if (patterns.n !== 2 || patterns.m !== 4) {
      throw new CodecError('unsupported-pattern', `expected a 2:4 mask set, got ${patterns.n}:${patterns.m}`);
    }
    const tensor = this.tensor(index);
    const out = new Uint8Array(canonicalBytes(patterns, tensor.groups));
    let at = 0;
    // Full chunks have an even number of symbols, so every chunk starts at a byte.
    for (const symbols of this.chunksOf(tensor)) {
      symbolsToNibbles(symbols, out.subarray(at));
      at += symbols.length >> 1;
    }
    return out;
  }

  /**
   * Decodes everything with the memory of one chunk and compares the content digest: what every upload goes through.
   * Throws CodecError `chunk-checksum`, `symbol-overrun`, `content-mismatch`.
   */
  check(): void {
    this.compareContent((tensor, hash) => {
      for (const symbols of this.chunksOf(tensor)) hash.update(symbols);
    });
  }

  /** The whole set, its content digest compared. Throws as `check` does. */
  maskSet(): MaskSet {
    const masks: Mask[] = [];
    this.compareContent((tensor, hash, index) => {
      const symbols = this.symbols(index);
      masks.push({ name: tensor.name, rows: tensor.rows, cols: tensor.cols, symbols });
      hash.update(symbols);
    });
    const { n, m, base, parent } = this.summary;
    return { n, m, base, ...(parent === undefined ? {} : { parent }), masks };
  }

  private compareContent(hashTensor: (tensor: TensorEntry, hash: TensorHash, index: number) => void): void {
    const { header, tensors } = this.container;
    const digests = tensors.map((tensor, index) => {
      const hash = new TensorHash(header.patterns, tensor.name, tensor.rows, tensor.cols);
      hashTensor(tensor, hash, index);
      return hash.digest();
    });
    const content = combineTensorDigests(header.base, header.patterns, digests);
    if (content !== header.content) {
      throw new CodecError(
        'content-mismatch',
        `expected masks with the content digest ${header.content}, got ${content}: the writer of this file is at fault`,
      );
    }
  }

  /** Symbols of each chunk in turn, in a buffer that the next one overwrites. */
  private *chunksOf(tensor: TensorEntry): Generator<Uint8Array, void, undefined> {
    for (let i = 0; i < tensor.chunks; i++) {
      const count = this.chunkSymbols(tensor, i);
      if (this.scratch.length < count) this.scratch = new Uint8Array(count);
      const symbols = this.scratch.subarray(0, count);
      this.decodeChunk(tensor, i, symbols);
      yield symbols;
    }
  }

  private decodeChunk(tensor: TensorEntry, i: number, out: Uint8Array): void {
    const { chunks, header } = this.container;
    const chunk = tensor.firstChunk + i;
    const start = chunks.offsets[chunk]!;
    const bytes = this.source.read(start, chunks.offsets[chunk + 1]! - start);
    if (crc32c(bytes) !== chunks.checksums[chunk]) {
      throw new CodecError(
        'chunk-checksum',
        `expected chunk ${i} of ${tensor.name} to have the checksum ${chunks.checksums[chunk]}, got ${crc32c(bytes)}: the file is damaged, fetch it again`,
      );
    }
    if (!tensor.coder.decode(bytes, header.patterns.count, out)) {
      throw new CodecError(
        'symbol-overrun',
        `expected chunk ${i} of ${tensor.name} to end with its symbol ${out.length}, got ${bytes.length} bytes that do not: the writer of this file is at fault`,
      );
    }
  }

  private chunkSymbols(tensor: TensorEntry, i: number): number {
    return symbolsOfChunk(tensor, i, this.container.header.chunkLog2);
  }

  private tensor(index: number): TensorEntry {
    const tensor = this.container.tensors[index];
    if (tensor === undefined) {
      throw new RangeError(`expected a tensor index below ${this.container.tensors.length}, got ${index}`);
    }
    return tensor;
  }
}

/** Decodes a whole set and compares its content digest. Throws CodecError: any code that FORMAT.md §10 gives a file. */
export function decodeMaskSet(source: Uint8Array | ByteSource, options: ReadOptions = {}): MaskSet {
  return new ContainerReader(source, options).maskSet();
}

/**
 * Checks a whole container, payload and content digest included, with the memory of its tables and one chunk.
 * Throws CodecError: any code that FORMAT.md §10 gives a file.
 */
export function checkContainer(source: Uint8Array | ByteSource, options: ReadOptions = {}): ContainerSummary {
  const reader = new ContainerReader(source, options);
  reader.check();
  return reader.summary;
}

function summarize({ header, tensors, chunks, fileBytes }: Container): ContainerSummary {
  const parameters = tensors.reduce((sum, tensor) => sum + tensor.rows * tensor.cols, 0);
  return {
    version: FORMAT_VERSION,
    n: header.patterns.n,
    m: header.patterns.m,
    base: header.base,
    parent: header.parent,
    content: header.content,
    parameters,
    fileBytes,
    payloadBytes: header.payloadBytes,
    bitsPerParameter: (8 * fileBytes) / parameters,
    chunkSymbols: 2 ** header.chunkLog2,
    tensors: tensors.map(({ name, rows, cols, groups, coder, firstChunk, chunks: count }) => ({
      name,
      rows,
      cols,
      groups,
      coder: coder.name,
      chunks: count,
      payloadBytes: chunks.offsets[firstChunk + count]! - chunks.offsets[firstChunk]!,
    })),
  };
}
