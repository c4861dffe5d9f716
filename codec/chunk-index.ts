/** Where each chunk lies and its checksum: FORMAT.md §6, and §14 for version 1. */
import { CodecError } from './errors.js';
import { fixedHeaderBytes, headerBytes, type FixedHeader } from './fixed-header.js';
import type { ChunkPlan } from './layout.js';
import { SectionReader, type SectionWriter } from './varint.js';

export interface ChunkIndex {
  /** Where chunk i starts in the file; one more entry for the end of the payload. (chunkCount + 1) */
  readonly offsets: Float64Array;
  /** (chunkCount) */
  readonly checksums: Uint32Array;
}

/**
 * Reads the index's bytes. With `plans`, what the tensors ask for, each length is compared with the bounds of its chunk.
 * Throws CodecError `chunk-length`, `bad-varint`, `index-length`, `payload-length`.
 */
export function readChunkIndex(
  index: Uint8Array,
  header: FixedHeader,
  plans: readonly ChunkPlan[] | undefined,
): ChunkIndex {
  const reader = new SectionReader(index, 'chunk index', 'index-length');
  const offsets = new Float64Array(header.chunkCount + 1);
  const checksums = new Uint32Array(header.chunkCount);
  let offset = headerBytes(header);
  for (let chunk = 0; chunk < header.chunkCount; chunk++) {
    const bytes = header.version === 1 ? reader.u32() : reader.varint();
    const plan = plans?.[chunk];
    if (plan !== undefined) checkBytes(chunk, bytes, plan);
    offsets[chunk] = offset;
    checksums[chunk] = reader.u32();
    offset += bytes;
  }
  reader.end();
  offsets[header.chunkCount] = offset;
  const payload = offset - headerBytes(header);
  if (payload !== header.payloadBytes) {
    throw new CodecError('payload-length', `expected chunks of ${header.payloadBytes} bytes together, got ${payload}`);
  }
  return { offsets, checksums };
}

export function writeChunkEntry(writer: SectionWriter, bytes: number, checksum: number): void {
  writer.varint(bytes);
  writer.u32(checksum);
}

/** Throws CodecError `index-length` if so few bytes cannot be an index of chunkCount entries: before anything is allocated for them. */
export function checkIndexBytes({ version, indexBytes, chunkCount }: FixedHeader): void {
  const least = (version === 1 ? 8 : 5) * chunkCount;
  if (indexBytes < least) {
    throw new CodecError(
      'index-length',
      `expected at least ${least} bytes of index for ${chunkCount} chunks, got ${indexBytes}`,
    );
  }
}

/** Where the index starts in the file. */
export function indexOffset(header: FixedHeader): number {
  return fixedHeaderBytes(header) + header.tableBytes + header.modelBytes;
}

function checkBytes(chunk: number, bytes: number, { minBytes, maxBytes }: ChunkPlan): void {
  if (bytes >= minBytes && bytes <= maxBytes) return;
  throw new CodecError(
    'chunk-length',
    `expected ${minBytes} to ${maxBytes} bytes for the symbols of chunk ${chunk}, got ${bytes}`,
  );
}
