/**
 * Which containers can be read: kept in the store or shipped with the model, and hashed once since start before anybody uses one. What
 * does not have the bytes of its name is set aside and never served. Changes to one digest happen one after the other.
 */
import { open } from 'node:fs/promises';
import { createReadStream } from 'node:fs';
import type { Readable } from 'node:stream';
import type { Digest } from '../../codec/mask-set.js';
import { ServerError } from '../errors.js';
import { hashFile, type BlobFiles, type ReceivedBlob } from './blob-files.js';
import { errorCode } from './file-system.js';
import { KeyedQueue } from './keyed-queue.js';

export class VerifiedBlobs {
  private readonly verified = new Set<Digest>();
  private readonly turns = new KeyedQueue();
  private changes = 0;

  /**
   * @param stored digests in blobs/
   * @param broken digest → why it can't be used
   * @param shipped digest → path of a file that is only read
   */
  constructor(
    private readonly files: BlobFiles,
    private readonly stored: Set<Digest>,
    readonly broken: Map<Digest, string>,
    private readonly shipped: ReadonlyMap<Digest, string>,
    private readonly warn: (line: string) => void,
  ) {}

  /** Another number whenever a container became usable or unusable. */
  get revision(): number {
    return this.changes;
  }

  isUsable(digest: Digest): boolean {
    return !this.broken.has(digest);
  }

  /** Throws mask_corrupt if the digest is known to be broken. */
  assertUsable(digest: Digest): void {
    const reason = this.broken.get(digest);
    if (reason !== undefined) throw corrupt(digest, reason);
  }

  /** Path of a container whose bytes have been checked since start. Throws mask_corrupt, version_not_found. */
  async path(digest: Digest): Promise<string> {
    this.assertUsable(digest);
    if (!this.verified.has(digest)) await this.turns.run(digest, () => this.verify(digest));
    return this.locate(digest);
  }

  /** Opens a container; the bytes stay readable through the stream even if it is deleted meanwhile. `end` is inclusive. */
  async read(
    digest: Digest,
    range?: { readonly start: number; readonly end: number },
  ): Promise<{ bytes: number; stream: Readable }> {
    const path = await this.path(digest);
    const handle = await open(path).catch((error: unknown) => {
      throw errorCode(error) === 'ENOENT' ? missing(digest) : error;
    });
    const { size } = await handle.stat();
    return { bytes: size, stream: handle.createReadStream(range) };
  }

  /**
   * Makes a received container a blob, then runs `name`, which makes something refer to it: in one turn, so that it can't be discarded
   * in between.
   */
  keep<T>(received: ReceivedBlob, name: () => Promise<T>, isNamed: () => boolean): Promise<T> {
    const { digest } = received;
    return this.turns.run(digest, async () => {
      await this.files.keep(received);
      this.stored.add(digest);
      this.verified.add(digest);
      this.changes++;
      if (this.broken.delete(digest)) await this.files.discardAside(digest);
      try {
        return await name();
      } finally {
        if (!isNamed()) await this.discardNow(digest);
      }
    });
  }

  /** Copies a shipped container into the store's tmp/, so that it can be kept. */
  async copyShipped(digest: Digest): Promise<ReceivedBlob> {
    const stream = createReadStream(await this.path(digest));
    try {
      return await this.files.receive(stream, { maxBytes: Infinity, expect: digest });
    } finally {
      stream.destroy();
    }
  }

  /** Deletes a container if nothing names it by then. */
  discard(digest: Digest, isNamed: () => boolean): Promise<void> {
    return this.turns.run(digest, async () => {
      if (!isNamed()) await this.discardNow(digest);
    });
  }

  idle(): Promise<void> {
    return this.turns.idle();
  }

  private async discardNow(digest: Digest): Promise<void> {
    if (this.stored.delete(digest)) await this.files.discard(digest);
    if (this.broken.delete(digest)) await this.files.discardAside(digest);
    this.verified.delete(digest);
    this.changes++;
  }

  private async verify(digest: Digest): Promise<void> {
    if (this.verified.has(digest)) return;
    this.assertUsable(digest);
    const found = await this.hash(digest);
    if (found === digest) {
      this.verified.add(digest);
      return;
    }
    await this.setAside(digest, found);
    this.assertUsable(digest);
  }

  /** The sha256 of the bytes, or a sentence that says why there is none. */
  private async hash(digest: Digest): Promise<string> {
    const path = this.locate(digest);
    try {
      return (await hashFile(path)).digest;
    } catch (error) {
      const code = errorCode(error);
      if (code === 'ENOENT') return 'its file is gone';
      if (code === 'EIO') return "its file can't be read (EIO)";
      throw new ServerError('store_failed', `could not read the container sha256:${digest} (${code}); try again`, {
        cause: error,
      });
    }
  }

  private async setAside(digest: Digest, found: string): Promise<void> {
    const reason = /^[0-9a-f]{64}$/.test(found) ? `its bytes have sha256 ${found}` : found;
    this.broken.set(digest, reason);
    this.changes++;
    this.warn(`container sha256:${digest} is damaged and set aside: ${reason}`);
    if (!this.stored.has(digest)) return;
    try {
      await this.files.setAside(digest, reason);
      this.stored.delete(digest);
    } catch (error) {
      this.warn(`could not move the damaged container sha256:${digest} to quarantine: ${String(error)}`);
    }
  }

  private locate(digest: Digest): string {
    const path = this.stored.has(digest) ? this.files.pathOf(digest) : this.shipped.get(digest);
    if (path === undefined) throw missing(digest);
    return path;
  }
}

function corrupt(digest: Digest, reason: string): ServerError {
  return new ServerError(
    'mask_corrupt',
    `the container sha256:${digest} is damaged: ${reason}; publish it again or roll its task back to another version`,
  );
}

function missing(digest: Digest): ServerError {
  return new ServerError(
    'version_not_found',
    `the store has no container sha256:${digest} (any more); ask for a version that the task has`,
  );
}
