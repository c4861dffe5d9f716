/** MaskSet → container bytes. The same set gives the same bytes, on every machine. */
import { UNIFORM_AC } from './coder.js';
import { contentDigest } from './content-digest.js';
import { crc32c } from './crc32c.js';
import { CodecError } from './errors.js';
import { FIXED_HEADER_BYTES, headerBytes, writeFixedHeader, type FixedHeader } from './fixed-header.js';
import { checkLimit } from './limits.js';
import type { MaskSet } from './mask-set.js';
import { checkSymbols, patternTable, type PatternTable } from './pattern.js';
import {
  checkName,
  duplicateTensor,
  entryBytes,
  groupsOf,
  symbolsOfChunk,
  writeChunkEntry,
  writeTensorEntry,
  type TensorEntry,
} from './tables.js';

export interface EncodeOptions {
  /** Symbols of a full chunk, as a power of two: 12 to 20. 16 costs 0.00025 bit a parameter and keeps chunks near 21 KB. */
  readonly chunkLog2?: number;
}

/**
 * Encodes a set, its masks in their order. Throws CodecError for a set that the format can't hold: `unsupported-pattern`, `bad-digest`,
 * `bad-name`, `duplicate-tensor`, `bad-shape`, `bad-symbol`, `length-limit`.
 */
export function encodeMaskSet(set: MaskSet, options: EncodeOptions = {}): Uint8Array {
  const chunkLog2 = options.chunkLog2 ?? 16;
  checkLimit('chunkLog2', chunkLog2, 'length-limit');
  checkLimit('tensorCount', set.masks.length, 'length-limit');
  const patterns = patternTable(set.n, set.m);
  const tensors = layOut(set, patterns, chunkLog2);
  const tables: FixedHeader = {
    patterns,
    chunkLog2,
    tensorCount: tensors.length,
    tableBytes: tensors.reduce((sum, tensor) => sum + entryBytes(tensor.name, tensor.coder), 0),
    chunkCount: tensors.reduce((sum, tensor) => sum + tensor.chunks, 0),
    payloadBytes: 0,
    base: set.base,
    content: contentDigest(set),
    parent: set.parent,
    tablesChecksum: 0,
  };
  checkLimit('tableBytes', tables.tableBytes, 'length-limit');
  checkLimit('chunkCount', tables.chunkCount, 'length-limit');
  const payloadOffset = headerBytes(tables);
  const out = new Uint8Array(payloadOffset + payloadCapacity(tensors, patterns, chunkLog2));
  writeTensorTable(out, tensors);
  const end = writePayload(out, set, tensors, tables);
  const tablesChecksum = crc32c(out.subarray(FIXED_HEADER_BYTES, payloadOffset));
  writeFixedHeader(out, { ...tables, payloadBytes: end - payloadOffset, tablesChecksum });
  return out.subarray(0, end);
}

/** Checks every mask and gives it its chunks. */
function layOut(set: MaskSet, patterns: PatternTable, chunkLog2: number): TensorEntry[] {
  const names = new Set<string>();
  let firstChunk = 0;
  return set.masks.map(({ name, rows, cols, symbols }, i) => {
    checkName(name, i);
    if (names.has(name)) throw duplicateTensor(name);
    names.add(name);
    const groups = groupsOf(name, rows, cols, patterns);
    if (symbols.length !== groups) {
      throw new CodecError(
        'bad-symbol',
        `expected ${groups} symbols for ${name} (${rows} × ${cols}, ${patterns.n}:${patterns.m}), got ${symbols.length}`,
      );
    }
    checkSymbols(symbols, patterns.count, ` of ${name}`);
    const coder = UNIFORM_AC;
    const tensor = { name, rows, cols, groups, coder, firstChunk, chunks: coder.chunkCount(groups, 2 ** chunkLog2) };
    firstChunk += tensor.chunks;
    return tensor;
  });
}

/** The most that the payload can take: at most 0.05% and two bytes a chunk above what it will. */
function payloadCapacity(tensors: readonly TensorEntry[], patterns: PatternTable, chunkLog2: number): number {
  let bytes = 0;
  for (const tensor of tensors) {
    for (let i = 0; i < tensor.chunks; i++) {
      bytes += tensor.coder.maxBytes(symbolsOfChunk(tensor, i, chunkLog2), patterns.count);
    }
  }
  return bytes;
}

function writeTensorTable(out: Uint8Array, tensors: readonly TensorEntry[]): void {
  let at = FIXED_HEADER_BYTES;
  for (const tensor of tensors) {
    writeTensorEntry(out, at, tensor);
    at += entryBytes(tensor.name, tensor.coder);
  }
}

/** Writes all chunks and their index; returns where the payload ends. */
function writePayload(out: Uint8Array, set: MaskSet, tensors: readonly TensorEntry[], header: FixedHeader): number {
  const indexOffset = FIXED_HEADER_BYTES + header.tableBytes;
  let at = headerBytes(header);
  tensors.forEach((tensor, t) => {
    const { symbols } = set.masks[t]!;
    for (let i = 0; i < tensor.chunks; i++) {
      const first = i * 2 ** header.chunkLog2;
      const part = symbols.subarray(first, first + symbolsOfChunk(tensor, i, header.chunkLog2));
      const bytes = tensor.coder.encode(part, header.patterns.count, out, at);
      writeChunkEntry(out, indexOffset, tensor.firstChunk + i, bytes, crc32c(out.subarray(at, at + bytes)));
      at += bytes;
    }
  });
  return at;
}
