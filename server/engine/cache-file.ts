/** Files in the user's cache folder: what can be worked out again, so none of them has to be there, whole or writable. */
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { threadId } from 'node:worker_threads';

/** Of a path below $XDG_CACHE_HOME/maskserve, or ~/.cache/maskserve. */
export class CacheFile {
  readonly path: string;

  constructor(...below: string[]) {
    this.path = join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'maskserve', ...below);
  }

  /** Undefined: there is none that can be read. */
  read(): string | undefined {
    try {
      return readFileSync(this.path, 'utf8');
    } catch {
      return undefined;
    }
  }

  /** All of it at once: readers see what was there before or this, whoever else writes. Does nothing where nothing can be written. */
  write(text: string): void {
    const partial = `${this.path}.${process.pid}.${threadId}`;
    try {
      mkdirSync(dirname(this.path), { recursive: true });
      writeFileSync(partial, text);
      renameSync(partial, this.path);
    } catch {
      discard(partial);
    }
  }
}

function discard(partial: string): void {
  try {
    rmSync(partial, { force: true });
  } catch {
    return;
  }
}
