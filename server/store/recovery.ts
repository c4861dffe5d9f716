/**
 * Start-up: from whatever a crash left behind to a state that only holds what was acknowledged. Runs under the lock. Each step can be
 * interrupted and run again.
 *
 *   tmp/*                          writes that nobody was told had succeeded: deleted
 *   a blob that no alias names     its alias was never written, or was removed: deleted
 *   an alias whose blob is missing, or has another length: reported as broken, never served
 *   a damaged alias file           stays, is reported, and keeps all blobs from being deleted
 */
import { join } from 'node:path';
import type { Digest } from '../../codec/mask-set.js';
import { readAliases, type Alias } from './alias-files.js';
import type { BlobFiles, BlobScan } from './blob-files.js';
import type { FileSystem } from './file-system.js';
import type { StoreLayout } from './store-layout.js';
import type { StoreLog } from './types.js';

export interface RecoveredStore {
  readonly aliases: readonly Alias[];
  /** Task → what is wrong with its alias file. */
  readonly damaged: Map<string, string>;
  /** Digests in blobs/. */
  readonly stored: Set<Digest>;
  /** Digest → why it can't be used. */
  readonly broken: Map<Digest, string>;
}

export async function recover(
  layout: StoreLayout,
  files: FileSystem,
  blobFiles: BlobFiles,
  log: StoreLog,
): Promise<RecoveredStore> {
  const unfinished = await clearTemporary(layout, files, log);
  const { aliases, damaged, foreign } = await readAliases(files, layout.tasks.path);
  for (const [task, reason] of damaged) {
    log.warn(
      `${join(layout.tasks.path, task)}.json is damaged: ${reason}; task "${task}" is not served until it is published again`,
    );
  }
  const scan = await blobFiles.scan();
  for (const name of [...foreign, ...scan.foreign])
    log.warn(`ignoring ${name} in ${layout.root}: it is no file of the store`);
  const broken = await findBroken(aliases, scan, blobFiles, log);
  const orphans = damaged.size > 0 ? [] : await discardOrphans(aliases, scan, blobFiles);
  if (unfinished + orphans.length > 0) {
    log.info(
      `recovered the store: deleted ${unfinished} unfinished writes and ${orphans.length} containers that no task names`,
    );
  }
  const stored = new Set([...scan.blobs.keys()].filter((digest) => !orphans.includes(digest) && !broken.has(digest)));
  return { aliases, damaged: new Map(damaged), stored, broken };
}

async function clearTemporary(layout: StoreLayout, files: FileSystem, log: StoreLog): Promise<number> {
  const names = await files.list(layout.temporary);
  for (const name of names) {
    const path = join(layout.temporary, name);
    await files.unlink(path).catch((error: unknown) => log.warn(`could not delete ${path}: ${String(error)}`));
  }
  return names.length;
}

async function findBroken(
  aliases: readonly Alias[],
  scan: BlobScan,
  blobFiles: BlobFiles,
  log: StoreLog,
): Promise<Map<Digest, string>> {
  const broken = new Map<Digest, string>();
  for (const { task, versions } of aliases) {
    for (const { blob } of versions) {
      const bytes = scan.blobs.get(blob.digest);
      if (bytes === blob.bytes || broken.has(blob.digest)) continue;
      const reason =
        bytes === undefined
          ? ((await blobFiles.reasonAside(blob.digest)) ?? 'its file is missing')
          : `expected ${blob.bytes} bytes but its file has ${bytes}`;
      broken.set(blob.digest, reason);
      log.warn(`version sha256:${blob.digest} of task "${task}" can't be served: ${reason}`);
      if (bytes !== undefined) await setAside(blob.digest, reason, blobFiles, log);
    }
  }
  return broken;
}

/** A container that can't be moved (a full disk) stays where it is, and is as little served. */
async function setAside(digest: Digest, reason: string, blobFiles: BlobFiles, log: StoreLog): Promise<void> {
  await blobFiles
    .setAside(digest, reason)
    .catch((error: unknown) => log.warn(`could not move sha256:${digest} to quarantine: ${String(error)}`));
}

/** Deletes containers, in blobs/ and in quarantine/, that no version names. */
async function discardOrphans(aliases: readonly Alias[], scan: BlobScan, blobFiles: BlobFiles): Promise<Digest[]> {
  const named = new Set(aliases.flatMap(({ versions }) => versions.map(({ blob }) => blob.digest)));
  const orphans = [...scan.blobs.keys()].filter((digest) => !named.has(digest));
  for (const digest of orphans) await blobFiles.discard(digest);
  for (const digest of await blobFiles.scanAside()) {
    if (!named.has(digest)) await blobFiles.discardAside(digest);
  }
  return orphans;
}
