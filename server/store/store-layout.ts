/**
 * The folders of a store:
 *
 *     <directory>/<base digest>/lock.*                   who uses it
 *                               tasks/<task>.json         aliases and their versions
 *                               blobs/<sha256>.mask       containers
 *                               quarantine/<sha256>.mask  containers that rotted, and .txt: why
 *                               tmp/                      unfinished writes
 *
 * Masks belong to one set of frozen weights, so each base has folders of its own: one --store serves several models, at once if need be.
 */
import { dirname, join } from 'node:path';
import type { Digest } from '../../codec/mask-set.js';
import { errorCode, type Directory, type FileSystem } from './file-system.js';

export interface StoreLayout {
  readonly root: string;
  readonly temporary: string;
  readonly tasks: Directory;
  readonly blobs: Directory;
  readonly quarantine: Directory;
  close(): Promise<void>;
}

/** Makes the folders where they are missing, durably. Throws one line if the directory can't be used. */
export async function openLayout(files: FileSystem, directory: string, base: Digest): Promise<StoreLayout> {
  const root = join(directory, base);
  const opened: Directory[] = [];
  const open = async (name: string): Promise<Directory> => {
    const folder = await files.openDirectory(join(root, name));
    opened.push(folder);
    return folder;
  };
  try {
    for (const name of ['tmp', 'tasks', 'blobs', 'quarantine']) await makeDurably(files, join(root, name));
    return {
      root,
      temporary: join(root, 'tmp'),
      tasks: await open('tasks'),
      blobs: await open('blobs'),
      quarantine: await open('quarantine'),
      close: () => closeAll(opened),
    };
  } catch (error) {
    await closeAll(opened);
    throw new Error(`can't use ${directory} as the store: ${reasonOf(error)}; choose another directory with --store`, {
      cause: error,
    });
  }
}

/** How many tasks the store keeps for other bases: after a change of weights somebody will look for them. */
export async function countForeignTasks(files: FileSystem, directory: string, base: Digest): Promise<number> {
  let tasks = 0;
  for (const name of await files.list(directory)) {
    if (name === base || !/^[0-9a-f]{64}$/.test(name)) continue;
    tasks += await files.list(join(directory, name, 'tasks')).then(
      (aliases) => aliases.length,
      () => 0,
    );
  }
  return tasks;
}

/** mkdir -p, with an fsync of every folder that got a new entry. */
export async function makeDurably(files: FileSystem, path: string): Promise<void> {
  const topmost = await files.makeDirectory(path);
  if (topmost === undefined) return;
  for (let made = path; made.length >= topmost.length; made = dirname(made)) {
    const parent = await files.openDirectory(dirname(made));
    try {
      await parent.sync();
    } finally {
      await parent.close();
    }
  }
}

async function closeAll(directories: readonly Directory[]): Promise<void> {
  for (const directory of directories) await directory.close();
}

function reasonOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return errorCode(error) === 'EEXIST' || errorCode(error) === 'ENOTDIR'
    ? `it is not a directory (${message})`
    : message;
}
