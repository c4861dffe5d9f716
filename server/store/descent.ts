/**
 * What stands on what in a registry, right now: which container a delta is decoded beside, what must not go because others need it. Over the
 * catalogue's names, and the few containers that are on disk without one.
 */
import type { Digest } from '../../codec/mask-set.js';
import { ServerError } from '../errors.js';
import type { Catalogue, NamedBlob } from './catalogue.js';
import { bereaved, DEEPEST_CHAIN, Lineage } from './lineage.js';
import type { BlobInfo, StoredMask } from './types.js';
import type { VerifiedBlobs } from './verified-blobs.js';

export class Descent {
  /** Without a name, but requests that resolved them before may still load them. */
  private readonly leaving = new Map<Digest, BlobInfo>();
  private changes = 0;
  private readable: { readonly revision: string; readonly lineage: Lineage } | undefined;

  /** @param unnamed stored containers that no alias names, and that deltas may stand on */
  constructor(
    private readonly catalogue: Catalogue,
    private readonly blobs: VerifiedBlobs,
    private readonly unnamed: readonly BlobInfo[],
  ) {}

  /** Throws mask_corrupt if what the container needs can't be read. */
  assertHeld(blob: BlobInfo): void {
    if (blob.needs.parent !== undefined && !this.lineage().holds(blob)) throw parentLost(blob);
  }

  /** A container and what it comes from, nearest first, paths verified: all that it needs, and beyond that what is there. Throws mask_corrupt. */
  async trace(digest: Digest): Promise<[StoredMask, ...StoredMask[]]> {
    const path = await this.blobs.path(digest);
    const blob = this.find(digest);
    const found: [StoredMask, ...StoredMask[]] = [{ blob, path }];
    for (let next = this.ancestor(blob, 1); next !== undefined; next = this.ancestor(blob, found.length)) {
      const before = this.blobs.revision;
      try {
        found.push({ blob: next, path: await this.blobs.path(next.digest) });
      } catch (error) {
        // Found damaged just now: another container of its content may stand in, and if none does and it is needed, that is the error.
        if (this.blobs.revision === before) throw error;
      }
    }
    return found;
  }

  /** The container that a new delta of this parent is decoded beside. Throws parent_unknown; invalid_mask if the chain gets too long. */
  parentFor(content: Digest): BlobInfo {
    const lineage = new Lineage(this.usable(this.catalogue.named()).map(({ blob }) => blob));
    const parent = lineage.of(content);
    if (parent === undefined) throw parentUnknown(content);
    if (!lineage.mayHaveChild(content)) throw chainTooDeep(content);
    return parent;
  }

  /** Throws parent_needed, with their names, if other tasks stand on a version of this one that would go with its alias. */
  assertNotNeeded(task: string): void {
    const children = bereaved(this.usable(this.catalogue.named()), this.usable(this.catalogue.named(task)));
    if (children.length > 0) throw parentNeeded(task, children);
  }

  /** A task's versions without the oldest beyond the limit, but for those that a delta, of this task or another, stands on. */
  pruned<T extends { readonly blob: BlobInfo }>(task: string, versions: readonly T[], limit: number): readonly T[] {
    const others: readonly { readonly blob: BlobInfo }[] = this.usable(this.catalogue.named(task));
    let kept = versions;
    for (const version of versions.slice(limit).reverse()) {
      const fewer = kept.filter((other) => other !== version);
      if (bereaved([...others, ...kept], [...others, ...fewer]).length === 0) kept = fewer;
    }
    return kept;
  }

  /** A container has lost a name; until it is forgotten it can be read. */
  leave(blob: BlobInfo): void {
    this.leaving.set(blob.digest, blob);
    this.changes++;
  }

  forget(digest: Digest): void {
    this.leaving.delete(digest);
    this.changes++;
  }

  /** Of everything that can be read. */
  private lineage(): Lineage {
    const revision = [this.catalogue.revision, this.blobs.revision, this.changes].join();
    if (this.readable?.revision !== revision) {
      const named = this.usable(this.catalogue.named()).map(({ blob }) => blob);
      const leaving = [...this.leaving.values()].filter(({ digest }) => this.blobs.isUsable(digest));
      this.readable = { revision, lineage: new Lineage([...named, ...leaving]) };
    }
    return this.readable.lineage;
  }

  /** `generations` up; undefined where the store knows no further. Throws mask_corrupt if one that it needs is missing. */
  private ancestor(blob: BlobInfo, generations: number): BlobInfo | undefined {
    this.assertHeld(blob);
    return this.lineage().ancestry(blob)[generations];
  }

  private find(digest: Digest): BlobInfo {
    const named = this.catalogue.named().find(({ blob }) => blob.digest === digest)?.blob;
    const blob = named ?? this.leaving.get(digest) ?? this.unnamed.find((other) => other.digest === digest);
    if (blob) return blob;
    throw new ServerError('version_not_found', `the store has no container sha256:${digest} (any more)`);
  }

  /** Those that are not damaged, and the containers without a name. */
  private usable(named: readonly NamedBlob[]): NamedBlob[] {
    const all = [...named, ...this.unnamed.map((blob) => ({ task: '', blob }))];
    return all.filter(({ blob }) => this.blobs.isUsable(blob.digest));
  }
}

function parentUnknown(content: Digest): ServerError {
  return new ServerError(
    'parent_unknown',
    `expected the store to have the parent with the content digest ${content}, which this mask is coded against, but it has none: publish the parent first, or upload the mask flattened (maskctl pull --flatten where both are)`,
  );
}

function chainTooDeep(content: Digest): ServerError {
  return new ServerError(
    'invalid_mask',
    `not a valid container (chain-too-deep): expected at most ${DEEPEST_CHAIN} mask sets that stand on each other, but the parent ${content} is the last of so many: upload the mask flattened`,
  );
}

function parentLost({ digest, needs }: BlobInfo): ServerError {
  return new ServerError(
    'mask_corrupt',
    `the container sha256:${digest} can't be decoded: it is coded against the mask set with the content digest ${needs.parent ?? ''}, which the store does not have; publish that again, or roll the task back to another version`,
  );
}

function parentNeeded(task: string, children: readonly NamedBlob[]): ServerError {
  const tasks = [...new Set(children.map((child) => `"${child.task}"`))].sort();
  return new ServerError(
    'parent_needed',
    `expected no mask that is coded against a version of "${task}", but ${tasks.join(', ')} ${tasks.length === 1 ? 'has' : 'have'} some: delete what needs it first, or publish it flattened (maskctl pull --flatten)`,
  );
}
