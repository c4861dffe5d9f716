/** A mask container on disk: what it holds, read or checked by decoding all of it, with what it needs. */
import { createHash } from 'node:crypto';
import { closeSync, openSync } from 'node:fs';
import type { ByteSource } from '../../codec/byte-source.js';
import { openChain } from '../../codec/chain.js';
import { readContainer } from '../../codec/container.js';
import { crc32c } from '../../codec/crc32c.js';
import { ContainerReader, type ContainerSummary } from '../../codec/decode.js';
import { CodecError } from '../../codec/errors.js';
import { fileSource } from '../../codec/file-source.js';
import type { Digest, MaskSet } from '../../codec/mask-set.js';
import type { ContainerFile } from '../../server/store/open-containers.js';
import { type FamilyOptions, MaskFamily } from './mask-family.js';
import type { Progress } from './progress.js';

const READ_BYTES = 1 << 20;

export interface MaskFile {
  /** sha256 of the file: the version that a server gives it. */
  readonly digest: Digest;
  readonly summary: ContainerSummary;
}

export interface OpenOptions extends FamilyOptions {
  /** Refuse masks for other weights. */
  readonly expectBase?: Digest;
  /** Open it beside its parent even where it does not need it, if that is found: for `ContainerReader.patch`. */
  readonly besideParent?: boolean;
  readonly progress?: Progress;
}

export interface OpenMask extends MaskFile {
  /** What it needs, and where that was found, nearest first. */
  readonly ancestors: readonly ContainerFile[];
  /** Asks its reader. Throws one line that names the file and its defect, or MaskLacks. */
  read<T>(question: (reader: ContainerReader) => T): T;
  close(): void;
}

/**
 * Opens a file with what it needs; its tables are checked now, its chunks when they are read. Throws the system's error, one that names the file
 * and its defect, or MaskLacks.
 */
export function openMask(path: string, options: OpenOptions = {}): OpenMask {
  return reading(path, (source, close) => {
    const bare = new ContainerReader(source, expecting(options));
    const digest = sha256(source);
    const family = new MaskFamily(bare.summary.base, path, options);
    const read = <T>(question: (reader: ContainerReader) => T): T => {
      try {
        return question(reader);
      } catch (error) {
        throw family.explained(path, error);
      }
    };
    let reader = bare;
    reader = read(() => openBeside(watched(source, options.progress), bare, family, options));
    return { digest, summary: reader.summary, ancestors: family.ancestors, read, close };
  });
}

/** Decodes the whole file, a tensor at a time. Throws as `openMask` does. */
export function checkMaskFile(path: string, options: OpenOptions = {}): Omit<OpenMask, 'read' | 'close'> {
  const mask = openMask(path, options);
  try {
    mask.read((reader) => reader.check());
    return mask;
  } finally {
    mask.close();
  }
}

/** The whole set. Throws as `openMask` does. */
export function readMaskSet(path: string, options: OpenOptions = {}): MaskSet {
  const mask = openMask(path, options);
  try {
    return mask.read((reader) => reader.maskSet());
  } finally {
    mask.close();
  }
}

/** Reads the tables and the digest: quick, and enough to refuse what is no mask file before it is sent anywhere. */
export function readMaskHeader(path: string): MaskFile {
  return reading(path, (source, close) => {
    const { summary } = new ContainerReader(source);
    const digest = sha256(source);
    close();
    return { digest, summary };
  });
}

/** As much as can be checked without what the file needs: tables, and the checksum of every chunk. */
export function checkMaskBytes(path: string): MaskFile {
  reading(path, (source, close) => {
    const { offsets, checksums } = readContainer(source).chunks;
    checksums.forEach((checksum, i) => {
      const start = offsets[i]!;
      if (crc32c(source.read(start, offsets[i + 1]! - start)) === checksum) return;
      throw new CodecError(
        'chunk-checksum',
        `chunk ${i} differs from its checksum: the file is damaged, fetch it again`,
      );
    });
    close();
  });
  return readMaskHeader(path);
}

function openBeside(
  source: ByteSource,
  { needs, summary: { parent } }: ContainerReader,
  family: MaskFamily,
  options: OpenOptions,
): ContainerReader {
  const { weights } = family.lookup;
  const set =
    options.besideParent && needs.parent === undefined && parent !== undefined ? family.decoded(parent) : undefined;
  if (set === undefined) return openChain(source, family.lookup, expecting(options));
  return new ContainerReader(source, { context: { parent: set, ...(weights ? { weights } : {}) } });
}

function expecting({ expectBase }: OpenOptions): { readonly expectBase?: Digest } {
  return expectBase === undefined ? {} : { expectBase };
}

/** The file stays open until `close`, or an error. */
function reading<T>(path: string, work: (source: ByteSource, close: () => void) => T): T {
  const file = openSync(path, 'r');
  try {
    return work(fileSource(file), () => closeSync(file));
  } catch (error) {
    closeSync(file);
    if (error instanceof CodecError) throw new Error(`${path}: ${error.message}`, { cause: error });
    // a failed read knows the descriptor only
    throw (error as NodeJS.ErrnoException).code === undefined ? error : Object.assign(error as Error, { path });
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
