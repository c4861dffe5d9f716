/** Everything of a container but its symbols: fixed header, tensor table, chunk index. No coding here. */
import type { ByteSource } from './byte-source.js';
import { crc32c } from './crc32c.js';
import { CodecError } from './errors.js';
import { FIXED_HEADER_BYTES, headerBytes, readFixedHeader, type FixedHeader } from './fixed-header.js';
import type { Digest } from './mask-set.js';
import { readChunkIndex, readTensorTable, type ChunkIndex, type TensorEntry } from './tables.js';

export interface ReadOptions {
  /** Refuse (`wrong-base`) a mask set for other weights, before its tables are read. */
  readonly expectBase?: Digest;
}

export interface Container {
  readonly header: FixedHeader;
  readonly tensors: readonly TensorEntry[];
  readonly chunks: ChunkIndex;
  readonly fileBytes: number;
}

/**
 * Reads and checks everything before the payload, which is not touched. Allocates no more than a few times the bytes that the file
 * really has before its payload. Throws CodecError: every code of FORMAT.md §10 up to `payload-length`, in that order.
 */
export function readContainer(source: ByteSource, options: ReadOptions = {}): Container {
  const fileBytes = source.byteLength;
  const start = source.read(0, Math.min(FIXED_HEADER_BYTES, fileBytes));
  const header = readFixedHeader(start, fileBytes, options.expectBase);
  const payloadOffset = headerBytes(header);
  const tables = source.read(FIXED_HEADER_BYTES, payloadOffset - FIXED_HEADER_BYTES);
  if (crc32c(tables) !== header.tablesChecksum) {
    throw new CodecError(
      'table-checksum',
      `expected tables with the checksum ${header.tablesChecksum}, got ${crc32c(tables)}: the file is damaged, fetch it again`,
    );
  }
  const tensors = readTensorTable(tables.subarray(0, header.tableBytes), header);
  const chunks = readChunkIndex(tables.subarray(header.tableBytes), header, tensors, payloadOffset);
  return { header, tensors, chunks, fileBytes };
}
