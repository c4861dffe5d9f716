/**
 * The file-system calls that the registry's durability rests on, and nothing else: small enough that tests can make the N-th call fail,
 * or replay what a power loss would have left. Errors are Node's own, with `code`.
 */
import { constants } from 'node:fs';
import { mkdir, open, readdir, readFile, rename, stat, unlink, type FileHandle } from 'node:fs/promises';

/** A new file being written. */
export interface OutputFile {
  /** Appends; resolves to the bytes taken, which may be fewer than given. */
  write(bytes: Uint8Array): Promise<number>;
  /** fsync: data and length are on stable storage when it resolves. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

/** A directory held open, so that making a rename durable never needs a new descriptor. */
export interface Directory {
  readonly path: string;
  /** fsync: names added to and removed from the directory are on stable storage when it resolves. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

export interface FileSystem {
  /** Makes the directory and its parents; resolves to the topmost one that was missing. */
  makeDirectory(path: string): Promise<string | undefined>;
  openDirectory(path: string): Promise<Directory>;
  /** Fails if the path exists. */
  create(path: string): Promise<OutputFile>;
  list(path: string): Promise<string[]>;
  /** Length in bytes. */
  bytes(path: string): Promise<number>;
  readText(path: string): Promise<string>;
  /** Replaces the target atomically. */
  rename(from: string, to: string): Promise<void>;
  unlink(path: string): Promise<void>;
}

export const nodeFileSystem: FileSystem = {
  makeDirectory: (path) => mkdir(path, { recursive: true }),
  openDirectory: async (path) => {
    const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
    return { path, sync: () => handle.sync(), close: () => handle.close() };
  },
  create: async (path) => outputFile(await open(path, 'wx', 0o644)),
  list: (path) => readdir(path),
  bytes: async (path) => (await stat(path)).size,
  readText: (path) => readFile(path, 'utf8'),
  rename,
  unlink,
};

/** The system's code of an error, e.g. `ENOSPC`; '' where it has none. */
export function errorCode(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : '';
}

function outputFile(handle: FileHandle): OutputFile {
  return {
    write: async (bytes) => (await handle.write(bytes)).bytesWritten,
    sync: () => handle.sync(),
    close: () => handle.close(),
  };
}
