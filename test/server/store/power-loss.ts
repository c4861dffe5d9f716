/**
 * A file system that remembers what a power loss may take: written bytes that were not fsynced, and names whose directory was not. It writes
 * through to the real one, and can at any moment lay out a folder as a disk might have kept it. SIGKILL can't show this, as the kernel keeps its pages.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import type { FileSystem, OutputFile } from '../../../server/store/file-system.js';

interface Inode {
  written: Buffer;
  /** Undefined: nothing of it is certain. */
  synced: Buffer | undefined;
}

/** A name added to a directory, or (undefined) taken from it. */
interface NameChange {
  readonly name: string;
  readonly inode: Inode | undefined;
}

interface DirectoryState {
  /** Names as they are. */
  readonly now: Map<string, Inode>;
  /** Names as they are certain to be after a power loss. */
  durable: Map<string, Inode>;
  /** Changes since the last fsync, in order: any of them may or may not be on disk. */
  pending: NameChange[];
}

export interface PowerLossFileSystem extends FileSystem {
  /** Lays out under `target` what the disk might hold if the power went now. `random` decides what of the uncertain is there. */
  surviving(target: string, random: () => number): Promise<void>;
}

export interface PowerLossOptions {
  /** Called after each call, when the power might go. */
  readonly onCall: () => Promise<void>;
  /** The fsync of these does nothing, so that a test can see that it would notice. */
  readonly unsynced?: 'files' | 'blobs' | 'tasks';
}

/** @param root folder under which everything is tracked; it starts empty */
export function powerLossFileSystem(real: FileSystem, root: string, options: PowerLossOptions): PowerLossFileSystem {
  const { onCall, unsynced } = options;
  const directories = new Map<string, DirectoryState>();
  const stateOf = (path: string): DirectoryState => {
    const state = directories.get(path) ?? { now: new Map(), durable: new Map(), pending: [] };
    directories.set(path, state);
    return state;
  };
  const change = (path: string, inode: Inode | undefined): void => {
    const state = stateOf(dirname(path));
    if (inode) state.now.set(basename(path), inode);
    else state.now.delete(basename(path));
    state.pending.push({ name: basename(path), inode });
  };
  const output = (file: OutputFile, inode: Inode): OutputFile => ({
    write: async (bytes) => {
      const taken = await file.write(bytes);
      inode.written = Buffer.concat([inode.written, bytes.subarray(0, taken)]);
      await onCall();
      return taken;
    },
    sync: async () => {
      if (unsynced !== 'files') inode.synced = inode.written;
      await onCall();
    },
    close: () => file.close(),
  });
  return {
    ...real,
    create: async (path) => {
      const file = await real.create(path);
      const inode: Inode = { written: Buffer.alloc(0), synced: undefined };
      change(path, inode);
      await onCall();
      return output(file, inode);
    },
    openDirectory: async (path) => {
      const directory = await real.openDirectory(path);
      const sync = async (): Promise<void> => {
        const state = stateOf(path);
        if (unsynced !== basename(path)) {
          state.durable = new Map(state.now);
          state.pending = [];
        }
        await onCall();
      };
      return { ...directory, sync };
    },
    rename: async (from, to) => {
      await real.rename(from, to);
      change(to, stateOf(dirname(from)).now.get(basename(from)));
      change(from, undefined);
      await onCall();
    },
    unlink: async (path) => {
      await real.unlink(path);
      change(path, undefined);
      await onCall();
    },
    surviving: async (target, random) => {
      for (const [path, state] of directories) {
        const folder = join(target, relative(root, path));
        await mkdir(folder, { recursive: true });
        for (const [name, inode] of survivingNames(state, random)) {
          await writeFile(join(folder, name), survivingBytes(inode, random));
        }
      }
    },
  };
}

/** The durable names, and some of the changes since. */
function survivingNames({ durable, pending }: DirectoryState, random: () => number): Map<string, Inode> {
  const names = new Map(durable);
  const odds = random();
  for (const { name, inode } of pending) {
    if (random() > odds) continue;
    if (inode) names.set(name, inode);
    else names.delete(name);
  }
  return names;
}

/** What was fsynced; else some of it, with zeroes where blocks never reached the disk. */
function survivingBytes({ written, synced }: Inode, random: () => number): Buffer {
  if (synced) return synced;
  const bytes = Buffer.from(written.subarray(0, Math.ceil(random() * written.length)));
  if (random() < 0.5) bytes.fill(0, Math.floor(random() * bytes.length));
  return bytes;
}
