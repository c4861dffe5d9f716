/**
 * What every task name means right now, in memory: the store's aliases over the masks shipped with the model. Reads need no disk;
 * a change is put on disk first and then here.
 */
import type { Digest } from '../../codec/mask-set.js';
import { ServerError } from '../errors.js';
import type { Alias, StoredVersion } from './alias-files.js';
import type { BlobInfo, Precondition, TaskRecord } from './types.js';

/** A mask file shipped next to the model. */
export interface ShippedMask {
  readonly task: string;
  readonly path: string;
  readonly version: StoredVersion;
}

/** A task as the registry sees it: its alias if the store has one, else the shipped mask. */
export interface TaskView {
  readonly task: string;
  readonly current: BlobInfo;
  /** Newest first; a shipped mask that was published over is the oldest. */
  readonly versions: readonly StoredVersion[];
  readonly shipped: boolean;
}

/** A container and a task that has it as a version. */
export interface NamedBlob {
  readonly task: string;
  readonly blob: BlobInfo;
}

export class Catalogue {
  private readonly aliases = new Map<string, Alias>();
  private readonly views = new Map<string, TaskView>();
  private readonly namers = new Map<Digest, number>();
  private changes = 0;

  /** @param damaged task → what is wrong with its alias file */
  constructor(
    aliases: readonly Alias[],
    private readonly damaged: Map<string, string>,
    private readonly shipped: ReadonlyMap<string, ShippedMask>,
  ) {
    for (const task of shipped.keys()) this.refresh(task);
    for (const alias of aliases) this.set(alias);
  }

  /** Another number after every change. */
  get revision(): number {
    return this.changes;
  }

  /** Undefined if there is no such task. Throws mask_corrupt if its alias file is damaged: a shipped mask never stands in silently. */
  find(task: string): TaskView | undefined {
    const reason = this.damaged.get(task);
    if (reason === undefined) return this.views.get(task);
    throw new ServerError(
      'mask_corrupt',
      `the record of task "${task}" is damaged: ${reason}; publish the task again, or delete it`,
    );
  }

  /** Throws task_not_found. */
  get(task: string): TaskView {
    const view = this.find(task);
    if (view) return view;
    throw new ServerError('task_not_found', `there is no task "${task}"; GET /v1/masks lists those that exist`, {
      param: 'task',
    });
  }

  list(): readonly TaskView[] {
    const sound = [...this.views.values()].filter(({ task }) => !this.damaged.has(task));
    return sound.sort((a, b) => (a.task < b.task ? -1 : 1));
  }

  /** Every version of every task, shipped ones included; with `without`, as they were if that task's alias were gone. */
  named(without?: string): readonly NamedBlob[] {
    const views = [...this.views.values()].map((view) =>
      view.task === without ? viewOf(without, undefined, this.shipped.get(without)) : view,
    );
    return views.flatMap((view) => view?.versions.map(({ blob }) => ({ task: view.task, blob })) ?? []);
  }

  aliasOf(task: string): Alias | undefined {
    return this.aliases.get(task);
  }

  shippedOf(task: string): ShippedMask | undefined {
    return this.shipped.get(task);
  }

  isDamaged(task: string): boolean {
    return this.damaged.has(task);
  }

  /** Whether a version of any alias has this digest. While an alias file is damaged every digest may be one of its. */
  isNamed(digest: Digest): boolean {
    return this.damaged.size > 0 || this.namers.has(digest);
  }

  set(alias: Alias): void {
    this.count(this.aliases.get(alias.task), -1);
    this.count(alias, 1);
    this.aliases.set(alias.task, alias);
    this.damaged.delete(alias.task);
    this.refresh(alias.task);
  }

  delete(task: string): void {
    this.count(this.aliases.get(task), -1);
    this.aliases.delete(task);
    this.damaged.delete(task);
    this.refresh(task);
  }

  private count(alias: Alias | undefined, step: number): void {
    for (const { blob } of alias?.versions ?? []) {
      const namers = (this.namers.get(blob.digest) ?? 0) + step;
      if (namers > 0) this.namers.set(blob.digest, namers);
      else this.namers.delete(blob.digest);
    }
  }

  private refresh(task: string): void {
    this.changes++;
    const view = viewOf(task, this.aliases.get(task), this.shipped.get(task));
    if (view) this.views.set(task, view);
    else this.views.delete(task);
  }
}

/** The version that a rollback without a target goes to: what was served before the current one, else the next older. */
export function versionBefore(view: TaskView): StoredVersion | undefined {
  const index = view.versions.findIndex(({ blob }) => blob.digest === view.current.digest);
  const replaced = view.versions[index]?.replaced;
  return view.versions.find(({ blob }) => blob.digest === replaced) ?? view.versions[index + 1];
}

/** Throws version_not_found. */
export function versionOf(view: TaskView, digest: Digest): StoredVersion {
  const version = view.versions.find(({ blob }) => blob.digest === digest);
  if (version) return version;
  throw new ServerError(
    'version_not_found',
    `task "${view.task}" has no version sha256:${digest}; GET /v1/masks/${view.task}/versions lists those it has`,
  );
}

/** Throws precondition_failed with what was expected and what is. `actual` is undefined where there is no such task. */
export function checkPrecondition(task: string, precondition: Precondition, actual: Digest | undefined): void {
  if (precondition === undefined) return;
  const is = actual === undefined ? 'there is no such task' : `it is at sha256:${actual}`;
  if ('match' in precondition) {
    if (precondition.match === actual) return;
    throw preconditionFailed(`expected task "${task}" to be at sha256:${precondition.match}, but ${is}`);
  }
  if (actual !== undefined) throw preconditionFailed(`expected no task "${task}", but ${is}`);
}

export function recordOf(view: TaskView): TaskRecord {
  return {
    task: view.task,
    digest: view.current.digest,
    blob: view.current,
    versions: view.versions.map(({ blob, publishedAt }) => ({ digest: blob.digest, publishedAt })),
    shipped: view.shipped,
  };
}

function preconditionFailed(sentence: string): ServerError {
  return new ServerError('precondition_failed', `${sentence}; fetch the task's record and decide again`);
}

function viewOf(task: string, alias: Alias | undefined, shipped: ShippedMask | undefined): TaskView | undefined {
  const shippedVersions = shipped ? [shipped.version] : [];
  if (!alias) return shipped && { task, current: shipped.version.blob, versions: shippedVersions, shipped: true };
  const current = alias.versions.find(({ blob }) => blob.digest === alias.digest);
  if (!current) throw new Error(`alias ${task} names sha256:${alias.digest}, which is none of its versions`);
  const older = shippedVersions.filter(({ blob }) =>
    alias.versions.every((version) => version.blob.digest !== blob.digest),
  );
  return { task, current: current.blob, versions: [...alias.versions, ...older], shipped: false };
}
