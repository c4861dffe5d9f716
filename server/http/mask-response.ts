/** Task records as JSON. Digests are bare lower-case hex, as sha256sum and `maskctl inspect` print them. */
import type { TaskRecord } from '../store/types.js';

export interface MaskJson {
  readonly task: string;
  /** sha256 of the container: the version. */
  readonly digest: string;
  readonly content: string;
  readonly base: string;
  readonly parent: string | null;
  /** What decoding takes beside the container: its parent, the base's weights. */
  readonly needs: { readonly parent: boolean; readonly weights: boolean };
  readonly bytes: number;
  readonly n: number;
  readonly m: number;
  /** Weights covered. */
  readonly parameters: number;
  readonly bits_per_parameter: number;
  /** True: as shipped with the model. */
  readonly shipped: boolean;
  /** ISO 8601. */
  readonly published_at: string;
  readonly versions: number;
}

export interface VersionsJson {
  readonly object: 'list';
  readonly task: string;
  /** The version that the name stands for. */
  readonly digest: string;
  /** Newest first. */
  readonly data: readonly { readonly digest: string; readonly published_at: string; readonly current: boolean }[];
}

export function recordJson({ task, digest, blob, versions, shipped }: TaskRecord): MaskJson {
  const version = versions.find((candidate) => candidate.digest === digest);
  return {
    task,
    digest,
    content: blob.content,
    base: blob.base,
    parent: blob.parent ?? null,
    needs: { parent: blob.needs.parent !== undefined, weights: blob.needs.weights },
    bytes: blob.bytes,
    n: blob.n,
    m: blob.m,
    parameters: blob.parameters,
    bits_per_parameter: (blob.bytes * 8) / blob.parameters,
    shipped,
    published_at: new Date(version?.publishedAt ?? 0).toISOString(),
    versions: versions.length,
  };
}

export function versionsJson({ task, digest, versions }: TaskRecord): VersionsJson {
  return {
    object: 'list',
    task,
    digest,
    data: versions.map((version) => ({
      digest: version.digest,
      published_at: new Date(version.publishedAt).toISOString(),
      current: version.digest === digest,
    })),
  };
}
