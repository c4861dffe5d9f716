/** Writing a directory whole or not at all: next to its place first, then renamed into it. */
import { mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { syncDirectory } from '../../server/engine/safetensors-writer.js';
import { UsageError } from './usage-error.js';

/** Refuses what can't become a new directory, before the work that fills it. `option`: that named it. */
export function checkNewDirectory(out: string, option = '--out'): void {
  const found = statSync(out, { throwIfNoEntry: false });
  if (found && (!found.isDirectory() || readdirSync(out).length > 0)) {
    throw new UsageError(`expected ${option} to be a directory that is not there yet, or empty, but received ${out}`);
  }
  const parent = dirname(resolve(out));
  if (!statSync(parent, { throwIfNoEntry: false })?.isDirectory()) {
    throw new UsageError(`expected a directory at ${parent} to make ${basename(out)} in`);
  }
}

/**
 * Calls `fill` with an empty directory, which becomes `out` when it returns; an error leaves nothing behind, and what a killed run left behind is
 * removed by the next one. `fill` makes its files durable.
 */
export async function writeNewDirectory<T>(out: string, fill: (directory: string) => T | Promise<T>): Promise<T> {
  const place = resolve(out);
  const partial = join(dirname(place), `.${basename(place)}.${process.pid}.part`);
  const discard = (): void => rmSync(partial, { recursive: true, force: true });
  discardLeftovers(place);
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

/** Halves of runs that are no more: `.NAME.PID.part`. */
function discardLeftovers(place: string): void {
  const [prefix, suffix] = [`.${basename(place)}.`, '.part'];
  for (const name of readdirSync(dirname(place))) {
    const pid = name.startsWith(prefix) && name.endsWith(suffix) ? name.slice(prefix.length, -suffix.length) : '';
    if (/^\d+$/.test(pid) && !runs(Number(pid))) rmSync(join(dirname(place), name), { recursive: true, force: true });
  }
}

/** Whether a process of another has this id; this one has not begun to write. */
function runs(pid: number): boolean {
  if (pid === process.pid) return false;
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}
