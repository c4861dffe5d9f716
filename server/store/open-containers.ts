/** Containers on disk, opened with what they need: ancestors by content, weights from the engine's memory. Synchronous, for worker threads. */
import { closeSync, openSync } from 'node:fs';
import type { ByteSource } from '../../codec/byte-source.js';
import { openChain, type ChainLookup } from '../../codec/chain.js';
import type { ContainerReader } from '../../codec/decode.js';
import { fileSource } from '../../codec/file-source.js';
import type { Digest, MaskSet } from '../../codec/mask-set.js';
import type { MaskableMatrix } from '../engine/types.js';
import { frozenWeights } from './frozen-weights.js';
import type { StoredMask } from './types.js';

/** A container that another one may stand on. */
export interface ContainerFile {
  readonly content: Digest;
  readonly path: string;
}

export class OpenContainers {
  private readonly descriptors: number[] = [];
  private readonly lookup: ChainLookup;

  /** @param known sets that are in memory already, by content: taken before any file */
  constructor(
    ancestors: readonly ContainerFile[],
    matrices: readonly MaskableMatrix[],
    known: (content: Digest) => MaskSet | undefined = () => undefined,
  ) {
    const paths = new Map(ancestors.map(({ content, path }) => [content, path]));
    const parent = (content: Digest): ByteSource | MaskSet | undefined => {
      const path = paths.get(content);
      return known(content) ?? (path === undefined ? undefined : this.source(path));
    };
    this.lookup = { parent, weights: frozenWeights(matrices) };
  }

  /** The bytes of a file, open until `close`. */
  source(path: string): ByteSource {
    const fd = openSync(path, 'r');
    this.descriptors.push(fd);
    return fileSource(fd);
  }

  /** A reader with all that it needs. Throws CodecError, `parent-missing` among them. */
  reader(path: string, expectBase?: Digest): ContainerReader {
    return openChain(this.source(path), this.lookup, expectBase === undefined ? {} : { expectBase });
  }

  close(): void {
    for (const fd of this.descriptors.splice(0)) closeSync(fd);
  }
}

export function containerFile({ blob, path }: StoredMask): ContainerFile {
  return { content: blob.content, path };
}
