/** A mask container on disk: what it holds, read or checked by decoding all of it. */
import { createHash } from 'node:crypto';
import { closeSync, openSync } from 'node:fs';
import type { ByteSource } from '../../codec/byte-source.js';
import { checkContainer, ContainerReader, type ContainerSummary } from '../../codec/decode.js';
import { CodecError } from '../../codec/errors.js';
import { fileSource } from '../../codec/file-source.js';
import type { Digest } from '../../codec/mask-set.js';
import type { Progress } from './progress.js';

const READ_BYTES = 1 << 20;

export interface MaskFile {
  /** sha256 of the file: the version that a server gives it. */
  readonly digest: Digest;
  readonly summary: ContainerSummary;
}

/**
 * Decodes the whole file in the memory of one chunk. Throws the system's error, or one that names the file and its defect: masks for
 * other weights than `expectBase` too.
 */
export function checkMaskFile(path: string, progress?: Progress, expectBase?: Digest): MaskFile {
  return read(path, (source) =>
    checkContainer(watched(source, progress), expectBase === undefined ? {} : { expectBase }),
  );
}

/** Reads the tables and the digest: quick, and enough to refuse what is no mask file before it is sent anywhere. */
export function readMaskHeader(path: string): MaskFile {
  return read(path, (source) => new ContainerReader(source).summary);
}

function read(path: string, summarize: (source: ByteSource) => ContainerSummary): MaskFile {
  const file = openSync(path, 'r');
  try {
    const source = fileSource(file);
    const summary = summarize(source);
    return { digest: sha256(source), summary };
  } catch (error) {
    if (error instanceof CodecError) throw new Error(`${path}: ${error.message}`, { cause: error });
    throw Object.assign(error as Error, { path }); // a failed read knows the descriptor only
  } finally {
    closeSync(file);
  }
}

function watched(source: ByteSource, progress: Progress | undefined): ByteSource {
  const { byteLength } = source;
  return {
    byteLength,
    read(offset, length) {
      progress?.update(offset + length, byteLength);
      return source.read(offset, length);
    },
  };
}

function sha256(source: ByteSource): Digest {
  const hash = createHash('sha256');
  for (let at = 0; at < source.byteLength; at += READ_BYTES) {
    hash.update(source.read(at, Math.min(READ_BYTES, source.byteLength - at)));
  }
  return hash.digest('hex');
}
