/**
 * The registry on disk. A mask goes: receive into tmp/ → check in a worker → blob → alias. The alias is the commit: until its rename a
 * publish has not happened, after the fsync of its directory it is acknowledged. Changes to one task happen one after the other, and so do
 * all that add or take away what a delta may stand on.
 */
import type { Readable } from 'node:stream';
import type { Digest } from '../../codec/mask-set.js';
import type { ModelInfo } from '../engine/types.js';
import { ServerError } from '../errors.js';
import { AliasFiles, type Alias } from './alias-files.js';
import { BlobFiles, type ReceivedBlob } from './blob-files.js';
import { Catalogue, checkPrecondition, recordOf, versionBefore, versionOf, type TaskView } from './catalogue.js';
import { createContainerChecker, rulesOf, type ContainerChecker } from './container-checker.js';
import { Descent } from './descent.js';
import { nodeFileSystem, type FileSystem } from './file-system.js';
import { describeStored, Intake } from './intake.js';
import { KeyedQueue } from './keyed-queue.js';
import { lockStore, type StoreLock } from './lock.js';
import { containerFile } from './open-containers.js';
import { recover } from './recovery.js';
import { findShipped } from './shipped.js';
import { StableStorage } from './stable-storage.js';
import { countForeignTasks, openLayout, type StoreLayout } from './store-layout.js';
import { checkOwnTaskName, checkTaskName } from './task-name.js';
import type { BlobInfo, Precondition, Registry, RegistryEvent, StoredMask, StoreLog, TaskRecord } from './types.js';
import { VerifiedBlobs } from './verified-blobs.js';

/** Versions that a task keeps; the oldest go first. */
const VERSION_LIMIT = 100;
/** How long a container outlives its last name, so that a request that resolved it just before can still load it. */
const GRACE_MS = 60_000;
const SILENT: StoreLog = { info: () => undefined, warn: () => undefined };

export interface DiskRegistryOptions {
  /** Made where it is missing. */
  readonly directory: string;
  readonly model: Pick<ModelInfo, 'name' | 'base' | 'maskable' | 'backend'>;
  /** Folder of `*.mask` files that are read-only tasks; it may be missing. */
  readonly shippedDirectory?: string;
  /** Silent if there is none. */
  readonly log?: StoreLog;
  readonly versionLimit?: number;
  readonly graceMs?: number;
  readonly fileSystem?: FileSystem;
  /** Other than a worker thread. */
  readonly checker?: ContainerChecker;
}

/**
 * Opens the store of a model: takes its lock, recovers from whatever a crash left, and looks at the shipped masks. Throws one line if the
 * directory can't be used or another process has it.
 */
export async function openDiskRegistry(options: DiskRegistryOptions): Promise<Registry> {
  const { model, log = SILENT, fileSystem = nodeFileSystem } = options;
  const layout = await openLayout(fileSystem, options.directory, model.base);
  const storage = new StableStorage(fileSystem, layout.temporary, (line) => log.warn(line));
  const checker = options.checker ?? createContainerChecker(model);
  let lock: StoreLock | undefined;
  try {
    lock = await lockStore(layout.root, {
      log: (line) => log.info(line),
      onLost: (reason) => storage.fail(reason),
    });
    const blobFiles = new BlobFiles(layout.blobs, layout.quarantine, fileSystem, storage);
    const shipped = await findShipped(options.shippedDirectory, checker, log);
    const { aliases, damaged, stored, broken, unnamed } = await recover(layout, fileSystem, blobFiles, log, {
      shipped: [...shipped.values()].map(({ version }) => version.blob),
      describe: (digest) => describeStored(digest, blobFiles, checker),
    });
    const foreign = await countForeignTasks(fileSystem, options.directory, model.base);
    if (foreign > 0)
      log.info(`the store also keeps ${foreign} tasks for other base weights, which ${model.name} can't use`);
    const shippedPaths = new Map([...shipped.values()].map(({ version, path }) => [version.blob.digest, path]));
    const blobs = new VerifiedBlobs(blobFiles, stored, broken, shippedPaths, (line) => log.warn(line));
    const catalogue = new Catalogue(aliases, damaged, shipped);
    const descent = new Descent(catalogue, blobs, unnamed);
    return new DiskRegistry({
      layout,
      storage,
      lock,
      checker,
      intake: new Intake(rulesOf(model), blobFiles, checker, descent),
      aliasFiles: new AliasFiles(layout.tasks, storage),
      blobs,
      catalogue,
      descent,
      log,
      versionLimit: options.versionLimit ?? VERSION_LIMIT,
      graceMs: options.graceMs ?? GRACE_MS,
    });
  } catch (error) {
    await checker.close();
    await lock?.release();
    await layout.close();
    throw error;
  }
}

interface Parts {
  readonly layout: StoreLayout;
  readonly storage: StableStorage;
  readonly lock: StoreLock;
  readonly checker: ContainerChecker;
  readonly intake: Intake;
  readonly aliasFiles: AliasFiles;
  readonly blobs: VerifiedBlobs;
  readonly catalogue: Catalogue;
  readonly descent: Descent;
  readonly log: StoreLog;
  readonly versionLimit: number;
  readonly graceMs: number;
}

class DiskRegistry implements Registry {
  private readonly turns = new KeyedQueue();
  private readonly listeners = new Set<(event: RegistryEvent) => void>();
  private readonly graceTimers = new Set<NodeJS.Timeout>();
  /** One key: what deltas stand on changes by one step at a time. */
  private readonly links = new KeyedQueue();

  constructor(private readonly parts: Parts) {}

  async publish(
    task: string,
    bytes: Readable,
    options: { readonly precondition?: Precondition; readonly expect?: Digest; readonly maxBytes: number },
  ): Promise<{ record: TaskRecord; created: boolean }> {
    const { storage, intake } = this.parts;
    checkOwnTaskName(task);
    storage.assertSound();
    this.check(task, options.precondition);
    const { received, blob } = await intake.take(bytes, options);
    try {
      return await this.turns.run(task, () =>
        this.links.run('', () => this.commit(task, received, blob, options.precondition)),
      );
    } finally {
      await received.file.drop();
    }
  }

  async resolve(task: string, version?: Digest): Promise<BlobInfo> {
    checkTaskName(task);
    const view = this.parts.catalogue.get(task);
    const blob = version === undefined ? view.current : versionOf(view, version).blob;
    this.parts.blobs.assertUsable(blob.digest);
    this.parts.descent.assertHeld(blob);
    return blob;
  }

  async get(task: string): Promise<TaskRecord> {
    checkTaskName(task);
    return recordOf(this.parts.catalogue.get(task));
  }

  async list(): Promise<readonly TaskRecord[]> {
    return this.parts.catalogue.list().map(recordOf);
  }

  read(digest: Digest, range?: { start: number; end: number }): Promise<{ bytes: number; stream: Readable }> {
    return this.parts.blobs.read(digest, range);
  }

  path(digest: Digest): Promise<string> {
    return this.parts.blobs.path(digest);
  }

  async lineage(digest: Digest): Promise<readonly StoredMask[]> {
    return this.parts.descent.trace(digest);
  }

  async flatten(digest: Digest): Promise<Uint8Array> {
    const { descent, checker } = this.parts;
    const [mask, ...ancestors] = await descent.trace(digest);
    return checker.flatten(mask.path, ancestors.map(containerFile));
  }

  async rollback(
    task: string,
    options: { readonly to?: Digest; readonly precondition?: Precondition },
  ): Promise<TaskRecord> {
    checkOwnTaskName(task);
    return this.turns.run(task, async () => {
      const view = this.parts.catalogue.get(task);
      checkPrecondition(task, options.precondition, view.current.digest);
      const digest = options.to ?? requireVersionBefore(view);
      const { blob } = versionOf(view, digest);
      if (digest === view.current.digest) return recordOf(view);
      await this.parts.blobs.path(digest);
      this.parts.descent.assertHeld(blob);
      await this.moveTo(view, blob);
      return this.announce(task);
    });
  }

  async remove(task: string, options: { readonly precondition?: Precondition }): Promise<void> {
    const { catalogue, aliasFiles, storage, descent } = this.parts;
    checkOwnTaskName(task);
    const change = async (): Promise<void> => {
      storage.assertSound();
      this.check(task, options.precondition);
      const alias = catalogue.aliasOf(task);
      if (!alias && !catalogue.isDamaged(task)) throw notRemovable(catalogue.get(task));
      descent.assertNotNeeded(task);
      await aliasFiles.remove(task);
      catalogue.delete(task);
      this.emit({ task, digest: catalogue.find(task)?.current.digest });
      await this.discardLater(alias?.versions.map(({ blob }) => blob) ?? []);
    };
    await this.turns.run(task, () => this.links.run('', change));
  }

  onChange(listener: (event: RegistryEvent) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  quarantined(): ReadonlyMap<Digest, string> {
    return this.parts.blobs.broken;
  }

  async close(): Promise<void> {
    const { storage, checker, blobs, layout, lock } = this.parts;
    storage.close();
    for (const timer of this.graceTimers) clearTimeout(timer);
    await checker.close();
    await this.turns.idle();
    await this.links.idle();
    await blobs.idle();
    await layout.close();
    await lock.release();
  }

  /** In the task's turn and that of all links: makes the container a blob and the alias name it. */
  private async commit(
    task: string,
    received: ReceivedBlob,
    blob: BlobInfo,
    precondition: Precondition,
  ): Promise<{ record: TaskRecord; created: boolean }> {
    const { catalogue, blobs, descent } = this.parts;
    this.check(task, precondition);
    const created = !catalogue.isDamaged(task) && catalogue.find(task) === undefined;
    const alias = catalogue.aliasOf(task);
    const next = this.withVersion(task, alias, blob);
    if (blob.needs.parent !== undefined) descent.parentFor(blob.needs.parent);
    await blobs.keep(
      received,
      async () => {
        if (next !== alias) await this.writeAlias(next);
      },
      () => catalogue.isNamed(blob.digest),
    );
    if (next === alias) return { record: recordOf(catalogue.get(task)), created: false };
    const record = this.announce(task);
    const dropped = alias?.versions.filter((version) => !next.versions.includes(version)) ?? [];
    await this.discardLater(dropped.map((version) => version.blob));
    return { record, created };
  }

  /** The alias with a version on top; the same alias if that is what it serves. */
  private withVersion(task: string, alias: Alias | undefined, blob: BlobInfo): Alias {
    if (alias?.digest === blob.digest) return alias;
    const older = alias?.versions.filter((version) => version.blob.digest !== blob.digest) ?? [];
    const newest = alias?.versions[0]?.publishedAt ?? 0;
    const version = {
      blob,
      // Later than the one before, whatever the clock does.
      publishedAt: Math.max(Date.now(), newest + 1),
      replaced: alias?.digest ?? this.parts.catalogue.shippedOf(task)?.version.blob.digest,
    };
    const { descent, versionLimit } = this.parts;
    return { task, digest: blob.digest, versions: descent.pruned(task, [version, ...older], versionLimit) };
  }

  /** In the task's turn: points the alias at one of the task's versions; a shipped one is copied into the store first. */
  private async moveTo(view: TaskView, blob: BlobInfo): Promise<void> {
    const { catalogue, blobs } = this.parts;
    const alias = catalogue.aliasOf(view.task);
    if (!alias) throw new Error(`expected task ${view.task} to have an alias`);
    if (alias.versions.some((version) => version.blob.digest === blob.digest)) {
      return this.writeAlias({ ...alias, digest: blob.digest });
    }
    const received = await blobs.copyShipped(blob.digest);
    try {
      await received.file.finish();
      const next = { ...alias, digest: blob.digest, versions: view.versions };
      await blobs.keep(
        received,
        () => this.writeAlias(next),
        () => catalogue.isNamed(blob.digest),
      );
    } finally {
      await received.file.drop();
    }
  }

  private async writeAlias(alias: Alias): Promise<void> {
    await this.parts.aliasFiles.write(alias);
    this.parts.catalogue.set(alias);
  }

  /** A damaged alias is at no digest that anybody could expect. */
  private check(task: string, precondition: Precondition): void {
    if (precondition === undefined) return;
    checkPrecondition(task, precondition, this.parts.catalogue.find(task)?.current.digest);
  }

  private announce(task: string): TaskRecord {
    const record = recordOf(this.parts.catalogue.get(task));
    this.emit({ task, digest: record.digest });
    return record;
  }

  private emit(event: RegistryEvent): void {
    for (const listener of this.listeners) {
      try {
        listener(event);
      } catch (error) {
        this.parts.log.warn(`a listener for changes of the registry failed: ${String(error)}`);
      }
    }
  }

  private async discardLater(dropped: readonly BlobInfo[]): Promise<void> {
    const { blobs, catalogue, descent, graceMs } = this.parts;
    for (const blob of dropped) descent.leave(blob);
    const discard = async (): Promise<void> => {
      for (const { digest } of dropped) {
        await blobs.discard(digest, () => catalogue.isNamed(digest));
        descent.forget(digest);
      }
    };
    if (dropped.length === 0) return;
    if (graceMs === 0) return discard();
    const timer = setTimeout(() => {
      this.graceTimers.delete(timer);
      void discard();
    }, graceMs);
    timer.unref();
    this.graceTimers.add(timer);
  }
}

function requireVersionBefore(view: TaskView): Digest {
  const version = versionBefore(view);
  if (version) return version.blob.digest;
  throw new ServerError('version_not_found', `task "${view.task}" has no earlier version to roll back to`);
}

function notRemovable({ task }: TaskView): ServerError {
  return new ServerError(
    'read_only_task',
    `task "${task}" is shipped with the model and read-only: publish under its name to override it, or delete its file from the model's masks folder`,
  );
}
