/** Writing a directory whole or not at all: next to its place first, then renamed into it. */
import { mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { syncDirectory } from '../../server/engine/safetensors-writer.js';
import { UsageError } from './failure.js';

/** Refuses what can't become a new directory, before the work that fills it. */
export function checkNewDirectory(out: string): void {
  const found = statSync(out, { throwIfNoEntry: false });
  if (found && (!found.isDirectory() || readdirSync(out).length > 0)) {
    throw new UsageError(`expected --out to be a directory that is not there yet, or empty, but received ${out}`);
  }
  const parent = dirname(resolve(out));
  if (!statSync(parent, { throwIfNoEntry: false })?.isDirectory()) {
    throw new UsageError(`expected a directory at ${parent} to make ${basename(out)} in`);
  }
}

/** Calls `fill` with an empty directory, which becomes `out` when it returns; an error leaves nothing behind. `fill` makes its files durable. */
export async function writeNewDirectory<T>(out: string, fill: (directory: string) => T | Promise<T>): Promise<T> {
  const place = resolve(out);
  const partial = join(dirname(place), `.${basename(place)}.${process.pid}.part`);
  const discard = (): void => rmSync(partial, { recursive: true, force: true });
  discard();
  mkdirSync(partial);
  try {
    const result = await fill(partial);
    syncDirectory(partial);
    renameSync(partial, place); // an empty directory may be there
    syncDirectory(dirname(place));
    return result;
  } catch (error) {
    discard();
    throw error;
  }
}
