/**
 * Masks that come with a model: `masks/<task>.mask` beside its weights. They are read where they lie, never written or copied. One that can't
 * be used is a warning at start, not a reason to stop.
 */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { hashFile } from './blob-files.js';
import type { ShippedMask } from './catalogue.js';
import type { ContainerChecker } from './container-checker.js';
import { errorCode } from './file-system.js';
import { checkOwnTaskName } from './task-name.js';
import type { StoreLog } from './types.js';

const SUFFIX = '.mask';

/** Task → mask. Bytes are checked against their checksums; symbols are decoded when the task is first used. */
export async function findShipped(
  directory: string | undefined,
  checker: ContainerChecker,
  log: StoreLog,
): Promise<ReadonlyMap<string, ShippedMask>> {
  const shipped = new Map<string, ShippedMask>();
  for (const name of await listMasks(directory)) {
    const path = join(directory ?? '', name);
    try {
      const mask = await readShipped(name.slice(0, -SUFFIX.length), path, checker);
      shipped.set(mask.task, mask);
    } catch (error) {
      log.warn(`not serving ${path}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  return shipped;
}

async function listMasks(directory: string | undefined): Promise<string[]> {
  if (directory === undefined) return [];
  try {
    return (await readdir(directory)).filter((name) => name.endsWith(SUFFIX)).sort();
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return [];
    throw error;
  }
}

async function readShipped(task: string, path: string, checker: ContainerChecker): Promise<ShippedMask> {
  checkOwnTaskName(task);
  const header = await checker.check(path, 'checksums');
  if ('needsParent' in header) throw new Error(`expected no parent to be asked for by a check of checksums`);
  const { mtimeMs } = await stat(path);
  const { digest, bytes } = await hashFile(path);
  const version = { blob: { digest, bytes, ...header }, publishedAt: Math.floor(mtimeMs), replaced: undefined };
  return { task, path, version };
}
