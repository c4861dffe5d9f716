/** A container on disk, read range by range: for files that should not be in memory whole. */
import { fstatSync, readSync } from 'node:fs';
import type { ByteSource } from './byte-source.js';
import { CodecError } from './errors.js';

/**
 * Reads from an open file, which stays the caller's to close. Synchronous: meant for worker threads and commands.
 * `read` throws CodecError `truncated` if the file has become shorter, or the system's error.
 */
export function fileSource(fd: number): ByteSource {
  const byteLength = fstatSync(fd).size;
  let buffer = new Uint8Array(0);
  return {
    byteLength,
    descriptor: fd,
    read(offset, length) {
      if (buffer.length < length) buffer = new Uint8Array(length);
      let done = 0;
      while (done < length) {
        const got = readSync(fd, buffer, done, length - done, offset + done);
        if (got === 0) {
          throw new CodecError('truncated', `expected ${byteLength} bytes, got ${offset + done}: the file was cut off`);
        }
        done += got;
      }
      return buffer.subarray(0, length);
    },
  };
}
