/**
 * Start-up: from whatever a crash left behind to a state that only holds what was acknowledged. Runs under the lock. Each step can be
 * interrupted and run again.
 *
 *   tmp/*                          writes that nobody was told had succeeded: deleted
 *   a blob that no alias names     its alias was never written, or was removed: deleted, unless a named delta stands on it
 *   an alias whose blob is missing, or has another length: reported as broken, never served
 *   a delta without its parent     reported, not served until the parent is published again
 *   a damaged alias file           stays, is reported, and keeps all blobs from being deleted
 */
import { join } from 'node:path';
import type { Digest } from '../../codec/mask-set.js';
import { readAliases, type Alias } from './alias-files.js';
import type { BlobFiles, BlobScan } from './blob-files.js';
import type { FileSystem } from './file-system.js';
import type { StoreLayout } from './store-layout.js';
import { bereaved, Lineage } from './lineage.js';
import type { BlobInfo, StoreLog } from './types.js';

export interface RecoveredStore {
  readonly aliases: readonly Alias[];
  /** Task → what is wrong with its alias file. */
  readonly damaged: Map<string, string>;
  /** Digests in blobs/. */
  readonly stored: Set<Digest>;
  /** Digest → why it can't be used. */
  readonly broken: Map<Digest, string>;
  /** Containers in blobs/ that no alias names, and that are kept nevertheless. */
  readonly unnamed: readonly BlobInfo[];
}

/** What deltas may stand on beside the store's own containers, and how a container that no alias describes is read. */
export interface Surroundings {
  readonly shipped: readonly BlobInfo[];
  /** undefined if it can't be read. */
  readonly describe: (digest: Digest) => Promise<BlobInfo | undefined>;
}

export async function recover(
  layout: StoreLayout,
  files: FileSystem,
  blobFiles: BlobFiles,
  log: StoreLog,
  surroundings: Surroundings,
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
  const readable = namedBlobs(aliases).filter(({ digest }) => !broken.has(digest));
  const present = [...readable, ...surroundings.shipped];
  const unnamed = await describeUnnamed(aliases, scan, damaged.size > 0 ? undefined : present, surroundings);
  const kept = new Set(unnamed.map(({ digest }) => digest));
  const orphans = damaged.size > 0 ? [] : await discardOrphans(aliases, scan, blobFiles, kept);
  warnOfBereaved(aliases, new Lineage([...present, ...unnamed]), broken, log);
  if (unfinished + orphans.length > 0) {
    log.info(
      `recovered the store: deleted ${unfinished} unfinished writes and ${orphans.length} containers that no task names`,
    );
  }
  const stored = new Set([...scan.blobs.keys()].filter((digest) => !orphans.includes(digest) && !broken.has(digest)));
  return { aliases, damaged: new Map(damaged), stored, broken, unnamed };
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
async function discardOrphans(
  aliases: readonly Alias[],
  scan: BlobScan,
  blobFiles: BlobFiles,
  kept: ReadonlySet<Digest>,
): Promise<Digest[]> {
  const named = new Set(namedBlobs(aliases).map(({ digest }) => digest));
  const orphans = [...scan.blobs.keys()].filter((digest) => !named.has(digest) && !kept.has(digest));
  for (const digest of orphans) await blobFiles.discard(digest);
  for (const digest of await blobFiles.scanAside()) {
    if (!named.has(digest)) await blobFiles.discardAside(digest);
  }
  return orphans;
}

/**
 * Containers that no alias names, of those that must stay: all while an alias file is damaged (`present` undefined), else those without
 * which a named delta has no parent. (Their alias file was damaged, and then published over.)
 */
async function describeUnnamed(
  aliases: readonly Alias[],
  scan: BlobScan,
  present: readonly BlobInfo[] | undefined,
  { describe }: Surroundings,
): Promise<readonly BlobInfo[]> {
  const whole = new Lineage(present ?? []);
  if (present?.every((blob) => whole.holds(blob))) return [];
  const named = new Set(namedBlobs(aliases).map(({ digest }) => digest));
  const unnamed: BlobInfo[] = [];
  for (const digest of scan.blobs.keys()) {
    const blob = named.has(digest) ? undefined : await describe(digest);
    if (blob) unnamed.push(blob);
  }
  return present ? withoutSpare(present, unnamed) : unnamed;
}

/** Of `unnamed`, those without which something present can't be decoded. */
function withoutSpare(present: readonly BlobInfo[], unnamed: readonly BlobInfo[]): readonly BlobInfo[] {
  const wrap = (blobs: readonly BlobInfo[]): { blob: BlobInfo }[] => blobs.map((blob) => ({ blob }));
  let needed = unnamed;
  for (const blob of unnamed) {
    const rest = needed.filter((other) => other !== blob);
    const lost = bereaved(wrap([...present, ...needed]), wrap([...present, ...rest]));
    if (!lost.some((one) => present.includes(one.blob))) needed = rest;
  }
  return needed;
}

function warnOfBereaved(
  aliases: readonly Alias[],
  lineage: Lineage,
  broken: ReadonlyMap<Digest, string>,
  log: StoreLog,
): void {
  for (const { task, versions } of aliases) {
    for (const { blob } of versions) {
      if (broken.has(blob.digest) || lineage.holds(blob)) continue;
      log.warn(
        `version sha256:${blob.digest} of task "${task}" can't be served: it is coded against the mask set ${blob.needs.parent ?? ''}, which is not in the store; publish that again`,
      );
    }
  }
}

function namedBlobs(aliases: readonly Alias[]): BlobInfo[] {
  return aliases.flatMap(({ versions }) => versions.map(({ blob }) => blob));
}
