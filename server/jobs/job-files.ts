/**
 * Jobs on disk, in the folder of the store that belongs to the model:
 *
 *     jobs/<id>/state.json    the record: what was asked for, how far it is, how it ended
 *               request.json  the body as it came, until the job is over
 *               parent.mask   the container that `from` named when the job was posted, until then
 *               checkpoint/   the trainer's state, until then
 *     jobs/tmp/               unfinished writes
 *
 * state.json comes last and goes first: a folder without one is no job, and the next start deletes it. It is only ever replaced whole.
 */
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { ServerError } from '../errors.js';
import { errorCode, nodeFileSystem, type Directory } from '../store/file-system.js';
import { StableStorage, type TemporaryFile } from '../store/stable-storage.js';
import { makeDurably } from '../store/store-layout.js';
import type { StoreLog } from '../store/types.js';
import type { JobRecord } from './types.js';

const FORMAT = 1;
const STATE = 'state.json';
const REQUEST = 'request.json';
const PARENT = 'parent.mask';
const CHECKPOINT = 'checkpoint';
const TEMPORARY = 'tmp';
const ID = /^[0-9a-f]{16}$/;

/** Where a run finds what it needs. */
export interface JobPaths {
  readonly request: string;
  readonly parent: string;
  readonly checkpoint: string;
}

export class JobFiles {
  private constructor(
    private readonly root: Directory,
    private readonly storage: StableStorage,
    private readonly log: StoreLog,
  ) {}

  /** Makes the folders where they are missing. The store's lock is held by whoever calls. */
  static async open(directory: string, log: StoreLog): Promise<JobFiles> {
    const temporary = join(directory, TEMPORARY);
    await makeDurably(nodeFileSystem, temporary);
    for (const name of await readdir(temporary)) await rm(join(temporary, name), { force: true });
    const storage = new StableStorage(nodeFileSystem, temporary, (line) => log.warn(line));
    return new JobFiles(await nodeFileSystem.openDirectory(directory), storage, log);
  }

  /** Every job, in the order in which they were posted. One that can't be read is left where it is, and told of. */
  async readAll(): Promise<JobRecord[]> {
    const records: JobRecord[] = [];
    for (const name of await readdir(this.root.path)) {
      if (name === TEMPORARY) continue;
      if (!ID.test(name)) this.log.warn(`ignoring ${join(this.root.path, name)}: it is no training job`);
      else records.push(...(await this.read(name)));
    }
    return records.sort((a, b) => a.createdAt - b.createdAt);
  }

  paths(id: string): JobPaths {
    const folder = join(this.root.path, id);
    return { request: join(folder, REQUEST), parent: join(folder, PARENT), checkpoint: join(folder, CHECKPOINT) };
  }

  /** Streams bytes into a temporary file. Throws body_too_large, disk_full, store_failed or the stream's own error; nothing is left then, and the stream stays open. */
  async receive(bytes: Readable, maxBytes: number): Promise<TemporaryFile> {
    const file = await this.storage.createTemporary();
    try {
      let length = 0;
      for await (const chunk of bytes.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>) {
        length += chunk.length;
        if (length > maxBytes) throw tooLarge(maxBytes);
        await file.write(chunk);
      }
      await file.finish();
      return file;
    } catch (error) {
      await file.drop();
      throw error;
    }
  }

  /** Makes received files a job. On stable storage when it resolves; nothing is left of it when it throws. */
  async create(record: JobRecord, request: TemporaryFile, parent: TemporaryFile | undefined): Promise<void> {
    this.storage.assertSound();
    const path = join(this.root.path, record.id);
    await this.storage.attempt(`make ${path}`, () => mkdir(path));
    try {
      await this.inFolder(record.id, async (folder) => {
        await request.moveTo(folder, REQUEST);
        await parent?.moveTo(folder, PARENT);
        await this.storage.attempt(`fsync ${this.root.path}`, () => this.root.sync(), { stopUnless: () => false });
        await this.storage.writeText(folder, STATE, format(record));
      });
    } catch (error) {
      await this.delete(record.id);
      throw error;
    }
  }

  write(record: JobRecord): Promise<void> {
    return this.inFolder(record.id, (folder) => this.storage.writeText(folder, STATE, format(record)));
  }

  /** Of a job that is over, only the record stays. Never throws. */
  async discardText(id: string): Promise<void> {
    for (const path of Object.values(this.paths(id)) as string[]) await this.remove(path);
  }

  /** Forgets a job. */
  async forget(id: string): Promise<void> {
    await this.inFolder(id, (folder) => this.storage.remove(folder, STATE));
    await this.delete(id);
  }

  async close(): Promise<void> {
    this.storage.close();
    await this.root.close();
  }

  private async read(id: string): Promise<JobRecord[]> {
    const path = join(this.root.path, id, STATE);
    let text: string;
    try {
      text = await readFile(path, 'utf8');
    } catch (error) {
      if (errorCode(error) !== 'ENOENT') throw error;
      await this.delete(id);
      return [];
    }
    try {
      return [parse(text)];
    } catch (error) {
      this.log.warn(`${path} is damaged: ${(error as Error).message}; its training job is not run`);
      return [];
    }
  }

  private async inFolder(id: string, work: (folder: Directory) => Promise<void>): Promise<void> {
    const path = join(this.root.path, id);
    const folder = await this.storage.attempt(`open ${path}`, () => nodeFileSystem.openDirectory(path));
    try {
      await work(folder);
    } finally {
      await folder.close();
    }
  }

  private async delete(id: string): Promise<void> {
    await this.remove(join(this.root.path, id));
  }

  /** What can't be deleted now is deleted with its job, or at the next start. */
  private async remove(path: string): Promise<void> {
    await rm(path, { recursive: true, force: true }).catch((error: unknown) =>
      this.log.warn(`could not delete ${path}: ${String(error)}`),
    );
  }
}

function tooLarge(bytes: number): ServerError {
  return new ServerError(
    'body_too_large',
    `expected a body of at most ${bytes} bytes but more came; send less text, or start the server with a larger --max-train-bytes`,
  );
}

function format(record: JobRecord): string {
  return `${JSON.stringify({ format: FORMAT, ...record })}\n`;
}

function parse(text: string): JobRecord {
  const { format, ...record } = JSON.parse(text) as JobRecord & { readonly format: number };
  if (format !== FORMAT) throw new Error(`expected format ${FORMAT} but it has ${format}`);
  return record;
}
