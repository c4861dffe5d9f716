/**
 * Which mask sets stand on which. A delta needs a container of its parent's content, which may be a delta itself, down to a root (FORMAT.md §11).
 * Any container of that content serves, so a parent may be encoded again, or flattened, and orphans nobody; of several the one with the
 * fewest ancestors is taken. Immutable: made anew when the containers change.
 */
import { LIMITS } from '../../codec/limits.js';
import type { Digest } from '../../codec/mask-set.js';
import type { BlobInfo } from './types.js';

/** Sets in a chain, the root included. */
export const [, DEEPEST_CHAIN] = LIMITS.chain;

interface Standing {
  readonly blob: BlobInfo;
  /** Sets that it takes to decode it, itself included. */
  readonly depth: number;
}

export class Lineage {
  /** Content digest → the container that stands for it. */
  private readonly standing = new Map<Digest, Standing>();

  /** @param blobs containers that can be read */
  constructor(blobs: Iterable<BlobInfo>) {
    const children = new Map<Digest, BlobInfo[]>();
    let level: BlobInfo[] = [];
    for (const blob of blobs) {
      const { parent } = blob.needs;
      if (parent === undefined) level.push(blob);
      else children.set(parent, [...(children.get(parent) ?? []), blob]);
    }
    for (let depth = 1; level.length > 0 && depth <= DEEPEST_CHAIN; depth++) {
      const fresh = level.filter(({ content }) => !this.standing.has(content));
      for (const blob of fresh) this.standing.set(blob.content, { blob, depth });
      const contents = new Set(fresh.map(({ content }) => content));
      level = [...contents].flatMap((content) => children.get(content) ?? []);
    }
  }

  /** The container that stands for a content; undefined if none can be decoded. */
  of(content: Digest): BlobInfo | undefined {
    return this.standing.get(content)?.blob;
  }

  /** Whether a container has all that it needs. */
  holds({ needs }: BlobInfo): boolean {
    return needs.parent === undefined || this.mayHaveChild(needs.parent);
  }

  /** Whether a content can be decoded, and is not the last of a chain that is as long as may be. */
  mayHaveChild(content: Digest): boolean {
    const standing = this.standing.get(content);
    return standing !== undefined && standing.depth < DEEPEST_CHAIN;
  }

  /** The container, then what stands for its parent, its parent's parent, …: as far as they can be decoded, at most a chain's length. */
  ancestry(blob: BlobInfo): readonly BlobInfo[] {
    const found = [blob];
    const seen = new Set([blob.content]);
    for (let { parent } = blob; parent !== undefined && found.length < DEEPEST_CHAIN;) {
      const next = this.standing.get(parent)?.blob;
      // Two contents may name each other as their parent, as long as they don't need each other.
      if (next === undefined || (seen.has(next.content) && found.at(-1)?.needs.parent === undefined)) break;
      seen.add(next.content);
      found.push(next);
      parent = next.parent;
    }
    return found;
  }
}

/** Of `kept`, those that can be decoded beside all of `before` and can't beside `kept` alone. */
export function bereaved<T extends { readonly blob: BlobInfo }>(
  before: readonly { readonly blob: BlobInfo }[],
  kept: readonly T[],
): readonly T[] {
  if (kept.every(({ blob }) => blob.needs.parent === undefined)) return [];
  const then = new Lineage(before.map(({ blob }) => blob));
  const after = new Lineage(kept.map(({ blob }) => blob));
  return kept.filter(({ blob }) => then.holds(blob) && !after.holds(blob));
}
