/** A file system whose N-th call fails; the calls after it succeed again, as after a passing fault. */
import type { Directory, FileSystem, OutputFile } from '../../../server/store/file-system.js';

/** `short`: the N-th call, if it is a write, takes only a part. Otherwise the code of the error it fails with. */
export type Fault = 'EIO' | 'ENOSPC' | 'EMFILE' | 'short';

export interface FailingFileSystem extends FileSystem {
  /** Calls so far. */
  readonly calls: () => number;
  /** What failed; undefined if nothing did yet. */
  readonly failed: () => string | undefined;
}

export function failingFileSystem(real: FileSystem, failAt: number, fault: Fault): FailingFileSystem {
  let calls = 0;
  let failed: string | undefined;
  const due = (what: string): boolean => {
    calls++;
    if (calls !== failAt) return false;
    failed = what;
    return true;
  };
  const run = async <T>(what: string, call: () => Promise<T>): Promise<T> => {
    if (due(what) && fault !== 'short') throw Object.assign(new Error(`${fault}: injected, ${what}`), { code: fault });
    return call();
  };
  const output = (file: OutputFile): OutputFile => ({
    write: async (bytes) => {
      if (fault === 'short' && due('write')) return file.write(bytes.subarray(0, Math.ceil(bytes.length / 3)));
      return fault === 'short' ? file.write(bytes) : run('write', () => file.write(bytes));
    },
    sync: () => run('fsync', () => file.sync()),
    // A close that fails has closed all the same.
    close: async () => {
      await file.close();
      await run('close', () => Promise.resolve());
    },
  });
  const directory = (opened: Directory): Directory => ({
    path: opened.path,
    sync: () => run('fsync of a directory', () => opened.sync()),
    close: () => opened.close(),
  });
  return {
    calls: () => calls,
    failed: () => failed,
    makeDirectory: (path) => run('mkdir', () => real.makeDirectory(path)),
    openDirectory: async (path) => directory(await run('open a directory', () => real.openDirectory(path))),
    create: async (path) => output(await run('create', () => real.create(path))),
    list: (path) => run('readdir', () => real.list(path)),
    bytes: (path) => run('stat', () => real.bytes(path)),
    readText: (path) => run('read', () => real.readText(path)),
    rename: (from, to) => run('rename', () => real.rename(from, to)),
    unlink: (path) => run('unlink', () => real.unlink(path)),
  };
}
