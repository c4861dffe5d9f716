/** Writing a file whole or not at all: next to its place first, then renamed into it. */
import { randomBytes } from 'node:crypto';
import { createWriteStream, rmSync } from 'node:fs';
import { rename, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { UsageError } from './usage-error.js';

/** Writes `chunks` to `path`; whatever ends it early (an error, Ctrl-C) leaves no half file behind. Returns the bytes written. */
export async function writeNewFile(
  path: string,
  chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): Promise<number> {
  const partial = join(dirname(path), `.${basename(path)}.${randomBytes(4).toString('hex')}.part`);
  const discard = (): void => rmSync(partial, { force: true });
  const interrupted = (): never => {
    discard();
    process.exit(130);
  };
  process.once('SIGINT', interrupted);
  try {
    const bytes = await writeAll(partial, chunks);
    await rename(partial, path);
    return bytes;
  } catch (error) {
    discard();
    throw error;
  } finally {
    process.off('SIGINT', interrupted);
  }
}

/** Refuses a path that can't become a file, before minutes of work go into what should be written there. */
export async function checkWritable(path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isDirectory()) throw new UsageError(`expected a file name but received the directory ${path}`);
  const folder = await stat(dirname(path)).catch(() => undefined);
  if (!folder?.isDirectory())
    throw new UsageError(`expected a directory at ${dirname(path)} to write ${basename(path)} into`);
}

async function writeAll(path: string, chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<number> {
  const file = createWriteStream(path, { flags: 'wx', flush: true });
  await pipeline(Readable.from(chunks, { objectMode: true }), file);
  return file.bytesWritten;
}
