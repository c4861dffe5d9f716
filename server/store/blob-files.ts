/**
 * Containers on disk, named by the sha256 of their bytes: received into tmp/, moved to blobs/, and moved to quarantine/ when their
 * bytes are no longer those of their name. Nothing here knows what a task is.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import type { Digest } from '../../codec/mask-set.js';
import { ServerError } from '../errors.js';
import { errorCode, type Directory, type FileSystem } from './file-system.js';
import type { StableStorage, TemporaryFile } from './stable-storage.js';

const SUFFIX = '.mask';
const REASON_SUFFIX = '.txt';
/** Small enough that hashing a chunk on the HTTP thread delays a token by well under a millisecond. */
const HASH_CHUNK_BYTES = 256 << 10;

/** Bytes in tmp/, hashed. */
export interface ReceivedBlob {
  readonly file: TemporaryFile;
  readonly digest: Digest;
  readonly bytes: number;
}

export interface BlobScan {
  /** Digest → length in bytes. */
  readonly blobs: ReadonlyMap<Digest, number>;
  readonly foreign: readonly string[];
}

export class BlobFiles {
  constructor(
    private readonly directory: Directory,
    private readonly quarantine: Directory,
    private readonly files: FileSystem,
    private readonly storage: StableStorage,
  ) {}

  pathOf(digest: Digest): string {
    return join(this.directory.path, digest + SUFFIX);
  }

  /**
   * Streams bytes into a temporary file, hashing them on the way; `look` sees each piece and may refuse by a throw. Throws body_too_large,
   * digest_mismatch, the stream's own error when the sender goes away. The stream is left open when refused, so that an answer can still be sent on its connection.
   */
  async receive(
    bytes: Readable,
    limits: { readonly maxBytes: number; readonly expect?: Digest },
    look: (chunk: Uint8Array) => void = () => undefined,
  ): Promise<ReceivedBlob> {
    const file = await this.storage.createTemporary();
    try {
      const hash = createHash('sha256');
      let length = 0;
      for await (const chunk of bytes.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>) {
        length += chunk.length;
        if (length > limits.maxBytes) throw tooLarge(limits.maxBytes);
        look(chunk);
        hash.update(chunk);
        await file.write(chunk);
      }
      const digest = hash.digest('hex');
      if (limits.expect !== undefined && limits.expect !== digest) throw digestMismatch(limits.expect, digest, length);
      return { file, digest, bytes: length };
    } catch (error) {
      await file.drop();
      throw error;
    }
  }

  /** Makes a received and finished file visible as a blob; replaces a blob of that name, which holds the same bytes or rotten ones. */
  keep(received: ReceivedBlob): Promise<void> {
    return received.file.moveTo(this.directory, received.digest + SUFFIX);
  }

  /** Deletes a blob that nothing names. */
  discard(digest: Digest): Promise<void> {
    return this.storage.discard(this.pathOf(digest));
  }

  /** Moves a corrupt blob out of the way, with the reason beside it for whoever looks. */
  async setAside(digest: Digest, reason: string): Promise<void> {
    await this.storage.writeText(this.quarantine, digest + REASON_SUFFIX, `${reason}\n`);
    await this.storage.move(this.pathOf(digest), this.quarantine, digest + SUFFIX);
  }

  /** Deletes what was set aside of a digest: its bytes are here again, or nobody names them. */
  async discardAside(digest: Digest): Promise<void> {
    await this.storage.discard(join(this.quarantine.path, digest + SUFFIX));
    await this.storage.discard(join(this.quarantine.path, digest + REASON_SUFFIX));
  }

  /** Why a digest was set aside, by an earlier run perhaps; undefined if it was not. */
  async reasonAside(digest: Digest): Promise<string | undefined> {
    try {
      return (await this.files.readText(join(this.quarantine.path, digest + REASON_SUFFIX))).trim();
    } catch (error) {
      if (errorCode(error) === 'ENOENT') return undefined;
      throw error;
    }
  }

  async scan(): Promise<BlobScan> {
    const blobs = new Map<Digest, number>();
    const foreign: string[] = [];
    for (const name of await this.files.list(this.directory.path)) {
      const digest = digestOf(name);
      if (digest === undefined) foreign.push(name);
      else blobs.set(digest, await this.files.bytes(join(this.directory.path, name)));
    }
    return { blobs, foreign };
  }

  /** Digests that have something set aside. */
  async scanAside(): Promise<ReadonlySet<Digest>> {
    const names = await this.files.list(this.quarantine.path);
    return new Set(names.map(digestOf).filter((digest) => digest !== undefined));
  }
}

/** sha256 and length of a file, read in chunks between which the event loop goes on. */
export async function hashFile(path: string): Promise<{ digest: Digest; bytes: number }> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of createReadStream(path, { highWaterMark: HASH_CHUNK_BYTES }) as AsyncIterable<Uint8Array>) {
    hash.update(chunk);
    bytes += chunk.length;
  }
  return { digest: hash.digest('hex'), bytes };
}

function digestOf(name: string): Digest | undefined {
  return /^([0-9a-f]{64})\.(?:mask|txt)$/.exec(name)?.[1];
}

function tooLarge(maxBytes: number): ServerError {
  return new ServerError('body_too_large', `expected a container of at most ${maxBytes} bytes, but more came`);
}

function digestMismatch(expected: Digest, received: Digest, bytes: number): ServerError {
  return new ServerError(
    'digest_mismatch',
    `expected bytes with sha256 ${expected} as declared, but received ${bytes} bytes with sha256 ${received}; upload the file again`,
  );
}
