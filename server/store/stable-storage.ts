/**
 * The three verbs that change a store: write a temporary file, move it into place, remove a name. Each resolves after the change is on
 * stable storage: temporary file, fsync, rename, fsync of the directory.
 *
 * What may fail how. Until the rename nothing visible has changed: the temporary file is dropped, the error is reported, and the next
 * call may succeed. From a failed fsync, rename or unlink on, nobody knows what the disk holds (a second fsync may report success for
 * data that the kernel has dropped; PostgreSQL learned it in 2018), so the storage fails stop: every later change is refused until a restart
 * has read back what is really there. A full disk is the exception where the call is known to have changed nothing.
 */
import { randomUUID } from 'node:crypto';
import { dirname, join } from 'node:path';
import { ServerError } from '../errors.js';
import { errorCode, type Directory, type FileSystem, type OutputFile } from './file-system.js';

/** A file under tmp/. Whoever creates it drops it in the end, which does nothing to one that was moved into place. */
export interface TemporaryFile {
  readonly path: string;
  write(bytes: Uint8Array): Promise<void>;
  /** fsync and close: before it is moved. */
  finish(): Promise<void>;
  /** Makes the finished file visible in `directory` under `name`, replacing what is there. */
  moveTo(directory: Directory, name: string): Promise<void>;
  /** Closes and deletes it; never throws. What can't be deleted goes at the next start. */
  drop(): Promise<void>;
}

export class StableStorage {
  private failure: string | undefined;
  private closed = false;

  /** @param temporary folder on the same file system as every target */
  constructor(
    private readonly files: FileSystem,
    private readonly temporary: string,
    private readonly warn: (line: string) => void,
  ) {}

  /** Throws store_failed once a change has failed in a way that leaves the disk's state unknown; shutting_down once closed. */
  assertSound(): void {
    if (this.closed) throw new ServerError('shutting_down', 'the store is closed: the server is shutting down');
    if (this.failure === undefined) return;
    throw new ServerError(
      'store_failed',
      `the store stopped taking changes: ${this.failure}; what was published stays served; check the disk, then restart the server`,
    );
  }

  /** From now on every change is refused for this reason. */
  fail(reason: string): void {
    if (this.failure !== undefined) return;
    this.failure = reason;
    this.warn(`the store takes no more changes: ${reason}`);
  }

  /** Refuses changes from now on. */
  close(): void {
    this.closed = true;
  }

  async createTemporary(): Promise<TemporaryFile> {
    this.assertSound();
    const path = join(this.temporary, randomUUID());
    const file = await this.attempt('create a temporary file', () => this.files.create(path));
    return new OpenTemporaryFile(path, file, this, this.warn);
  }

  /** Writes `text` whole under `name`, replacing what is there. */
  async writeText(directory: Directory, name: string, text: string): Promise<void> {
    const file = await this.createTemporary();
    try {
      await file.write(Buffer.from(text));
      await file.finish();
      await file.moveTo(directory, name);
    } finally {
      await file.drop();
    }
  }

  /** Removes a name; one that is gone already is fine. */
  async remove(directory: Directory, name: string): Promise<void> {
    this.assertSound();
    await this.attempt(`delete ${name}`, () => this.files.unlink(join(directory.path, name)).catch(unlessMissing), {
      stopUnless: () => false,
    });
    await this.sync(directory);
  }

  /** Renames a file; an existing target is replaced. */
  async move(from: string, directory: Directory, name: string): Promise<void> {
    this.assertSound();
    const target = join(directory.path, name);
    await this.attempt(`rename a file to ${target}`, () => this.files.rename(from, target), { stopUnless: isFull });
    await this.sync(directory);
  }

  /**
   * Deletes what nothing names any more; never throws. If it comes back after a crash, the next start deletes it. Once storage has
   * failed nothing is deleted: the disk may hold a name that memory doesn't know.
   */
  async discard(path: string): Promise<void> {
    if (this.failure !== undefined) return;
    try {
      await this.files.unlink(path).catch(unlessMissing);
    } catch (error) {
      this.warn(`could not delete ${path}, which the next start will do: ${String(error)}`);
    }
  }

  private sync(directory: Directory): Promise<void> {
    return this.attempt(`fsync the directory ${directory.path}`, () => directory.sync(), { stopUnless: () => false });
  }

  /** Runs one call; a failure becomes disk_full or store_failed, and stops the storage unless told otherwise. */
  async attempt<T>(
    what: string,
    call: () => Promise<T>,
    options: { readonly stopUnless?: (code: string) => boolean } = {},
  ): Promise<T> {
    try {
      return await call();
    } catch (error) {
      const code = errorCode(error);
      const reason = `could not ${what}: ${error instanceof Error ? error.message : String(error)}`;
      if (options.stopUnless && !options.stopUnless(code)) {
        this.fail(reason);
        this.assertSound();
      }
      if (isFull(code)) {
        throw new ServerError(
          'disk_full',
          `no space left in ${dirname(this.temporary)}: free some and try again (${reason})`,
          {
            cause: error,
          },
        );
      }
      throw new ServerError('store_failed', `${reason}; nothing was changed; try again`, { cause: error });
    }
  }
}

/** Whether the disk or the quota is full. */
function isFull(code: string): boolean {
  return code === 'ENOSPC' || code === 'EDQUOT';
}

function unlessMissing(error: unknown): void {
  if (errorCode(error) !== 'ENOENT') throw error;
}

class OpenTemporaryFile implements TemporaryFile {
  private state: 'open' | 'finished' | 'gone' = 'open';

  constructor(
    readonly path: string,
    private readonly file: OutputFile,
    private readonly storage: StableStorage,
    private readonly warn: (line: string) => void,
  ) {}

  async write(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      const taken = await this.storage.attempt('write a temporary file', () => this.file.write(bytes.subarray(done)));
      if (taken <= 0)
        throw new ServerError('store_failed', 'could not write a temporary file: the system took no bytes');
      done += taken;
    }
  }

  async finish(): Promise<void> {
    await this.storage.attempt('fsync a temporary file', () => this.file.sync(), { stopUnless: isFull });
    this.state = 'finished';
    await this.storage.attempt('close a temporary file', () => this.file.close());
  }

  async moveTo(directory: Directory, name: string): Promise<void> {
    await this.storage.move(this.path, directory, name);
    this.state = 'gone';
  }

  async drop(): Promise<void> {
    if (this.state === 'gone') return;
    if (this.state === 'open') {
      await this.file.close().catch((error: unknown) => this.warn(`could not close ${this.path}: ${String(error)}`));
    }
    this.state = 'gone';
    await this.storage.discard(this.path);
  }
}
