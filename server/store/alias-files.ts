/**
 * One file a task under tasks/: its versions and which of them is served. Two lines: the record as JSON, and the sha256 of that line.
 * The file is only ever replaced whole, so a crash can't tear it; the second line is for what a rename can't help against, a rotten
 * sector or an editor. A damaged file is left where it is: the task answers mask_corrupt, and as nobody knows which blobs it named, none are
 * deleted until the task is published again or removed.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { Needs } from '../../codec/context.js';
import type { Digest } from '../../codec/mask-set.js';
import { errorCode, type Directory, type FileSystem } from './file-system.js';
import type { StableStorage } from './stable-storage.js';
import { isTaskName } from './task-name.js';
import type { BlobInfo } from './types.js';

const FORMAT = 1;
const SUFFIX = '.json';
const DIGEST = /^[0-9a-f]{64}$/;

/** A version as the alias file keeps it. */
export interface StoredVersion {
  readonly blob: BlobInfo;
  /** Unix milliseconds. */
  readonly publishedAt: number;
  /** What the task served when this was published: where a rollback goes. */
  readonly replaced: Digest | undefined;
}

export interface Alias {
  readonly task: string;
  readonly digest: Digest;
  /** Newest first; one of them has `digest`. */
  readonly versions: readonly StoredVersion[];
}

export type AliasScan = {
  readonly aliases: readonly Alias[];
  /** Task → what is wrong with its file. */
  readonly damaged: ReadonlyMap<string, string>;
  /** Names in the directory that are no alias files. */
  readonly foreign: readonly string[];
};

export class AliasFiles {
  constructor(
    private readonly directory: Directory,
    private readonly storage: StableStorage,
  ) {}

  write(alias: Alias): Promise<void> {
    return this.storage.writeText(this.directory, alias.task + SUFFIX, formatAlias(alias));
  }

  remove(task: string): Promise<void> {
    return this.storage.remove(this.directory, task + SUFFIX);
  }

  pathOf(task: string): string {
    return join(this.directory.path, task + SUFFIX);
  }
}

/** Reads every alias file of a directory. Throws if the system doesn't let it (no permission, too many open files). */
export async function readAliases(files: FileSystem, directory: string): Promise<AliasScan> {
  const aliases: Alias[] = [];
  const damaged = new Map<string, string>();
  const foreign: string[] = [];
  for (const name of (await files.list(directory)).sort()) {
    const task = name.endsWith(SUFFIX) ? name.slice(0, -SUFFIX.length) : '';
    if (!isTaskName(task)) {
      foreign.push(name);
      continue;
    }
    try {
      aliases.push(parseAlias(task, await files.readText(join(directory, name))));
    } catch (error) {
      // EIO is the disk's way of saying damaged; what may pass is not taken for damage.
      if (!['', 'EIO'].includes(errorCode(error))) throw error;
      damaged.set(task, error instanceof Error ? error.message : String(error));
    }
  }
  return { aliases, damaged, foreign };
}

export function formatAlias(alias: Alias): string {
  const line = JSON.stringify({ format: FORMAT, ...alias });
  return `${line}\n${sha256(line)}\n`;
}

/** Throws what is wrong: expected and found. */
export function parseAlias(task: string, text: string): Alias {
  const [line = '', checksum = '', ...rest] = text.split('\n');
  if (sha256(line) !== checksum || rest.join('') !== '') throw new Error('its content differs from its checksum');
  const { format, ...alias } = JSON.parse(line) as Alias & { format: unknown };
  if (format !== FORMAT) throw new Error(`expected format ${FORMAT} but received ${JSON.stringify(format)}`);
  if (alias.task !== task) throw new Error(`expected the record of ${task} but received that of ${alias.task}`);
  if (!alias.versions.every(({ blob }) => DIGEST.test(blob.digest))) throw new Error('a version has no digest');
  if (!alias.versions.some(({ blob }) => blob.digest === alias.digest))
    throw new Error('its digest is none of its versions');
  return { ...alias, versions: alias.versions.map(complete) };
}

/** JSON drops fields that are undefined. Records from before there were deltas don't say what a container needs: nothing. */
function complete({ blob, publishedAt, replaced }: StoredVersion): StoredVersion {
  const { parent, weights = false }: Partial<Needs> = (blob as Partial<BlobInfo>).needs ?? {};
  return { blob: { ...blob, parent: blob.parent, needs: { parent, weights } }, publishedAt, replaced };
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
