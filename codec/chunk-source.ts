/** Chunks of a container's payload as they lie in the file. FORMAT.md §6. */
import type { CodedChunks, FileChunks } from '../kernels/codec-types.js';
import type { ByteSource } from './byte-source.js';
import type { Container } from './container.js';
import { crc32c } from './crc32c.js';
import { CodecError } from './errors.js';

export class ChunkSource {
  constructor(
    private readonly source: ByteSource,
    private readonly container: Container,
  ) {}

  /** A chunk's bytes, compared with their checksum. Throws CodecError `chunk-checksum`. */
  read(chunk: number): Uint8Array {
    // A copy: the next read, of scales say, may reuse its bytes.
    const bytes = this.raw(chunk);
    if (crc32c(bytes) !== this.container.chunks.checksums[chunk]) throw this.badChecksum(chunk, bytes);
    return bytes;
  }

  /** Chunks first … last for native coders, which compare the checksums. Holds until the next read. */
  run(first: number, last: number): CodedChunks {
    return { ...this.entries(first, last), payload: this.bytes(first, last) };
  }

  /** The same, left in the file if they are in one. */
  runInPlace(first: number, last: number): CodedChunks | FileChunks {
    const { descriptor } = this.source;
    if (descriptor === undefined) return this.run(first, last);
    return { ...this.entries(first, last), file: { descriptor, offset: this.container.chunks.offsets[first] ?? 0 } };
  }

  /** A chunk's bytes, whatever their checksum: a copy. */
  raw(chunk: number): Uint8Array {
    return this.bytes(chunk, chunk).slice();
  }

  badChecksum(chunk: number, bytes: Uint8Array): CodecError {
    const expected = this.container.chunks.checksums[chunk];
    return new CodecError(
      'chunk-checksum',
      `expected chunk ${chunk} to have the checksum ${expected}, got ${crc32c(bytes)}: the file is damaged, fetch it again`,
    );
  }

  private entries(first: number, last: number): Omit<CodedChunks, 'payload'> {
    const { offsets, checksums } = this.container.chunks;
    const lengths = new Uint32Array(last - first + 1);
    for (let i = 0; i < lengths.length; i++) lengths[i] = (offsets[first + i + 1] ?? 0) - (offsets[first + i] ?? 0);
    return { lengths, checksums: checksums.slice(first, last + 1), statuses: new Int32Array(lengths.length) };
  }

  private bytes(first: number, last: number): Uint8Array {
    const { offsets } = this.container.chunks;
    const start = offsets[first] ?? 0;
    return this.source.read(start, (offsets[last + 1] ?? 0) - start);
  }
}

/** A chunk that does not end with its last symbol. */
export function overrun(chunk: number, bytes: number): CodecError {
  return new CodecError(
    'symbol-overrun',
    `expected chunk ${chunk} to end with its last symbol, got ${bytes} bytes that do not: the writer of this file is at fault`,
  );
}
