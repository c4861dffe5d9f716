/** Containers on disk, opened with what they need: ancestors by content, weights from the engine's memory. Synchronous, for worker threads. */
import { closeSync, openSync } from 'node:fs';
import type { ByteSource } from '../../codec/byte-source.js';
import { openChain, type ChainLookup } from '../../codec/chain.js';
import type { ContainerReader } from '../../codec/decode.js';
import { fileSource } from '../../codec/file-source.js';
import type { MatrixShape } from '../../codec/context.js';
import type { Digest, MaskSet } from '../../codec/mask-set.js';
import type { Handle } from '../../kernels/handle.js';
import type { MaskableMatrix } from '../engine/types.js';
import { frozenBuffers, frozenWeights } from './frozen-weights.js';
import type { StoredMask } from './types.js';

/** A container that another one may stand on. */
export interface ContainerFile {
  readonly content: Digest;
  readonly path: string;
}

/** The model that a container is for. */
export interface WeightsHolder {
  readonly matrices: readonly MaskableMatrix[];
}

/** A mask set in memory, as symbols and compacted. */
export interface KnownSet {
  readonly content: Digest;
  readonly maskSet: MaskSet;
  readonly packed: (matrix: MatrixShape) => Handle | undefined;
}

export class OpenContainers {
  private readonly descriptors: number[] = [];
  private readonly lookup: ChainLookup;

  /** @param known a set that is in memory already: taken before any file */
  constructor(ancestors: readonly ContainerFile[], { matrices }: WeightsHolder, known?: KnownSet) {
    const paths = new Map(ancestors.map(({ content, path }) => [content, path]));
    const parent = (content: Digest): ByteSource | MaskSet | undefined => {
      if (known?.content === content) return known.maskSet;
      const path = paths.get(content);
      return path === undefined ? undefined : this.source(path);
    };
    this.lookup = {
      parent,
      weights: frozenWeights(matrices),
      weightBuffers: frozenBuffers(matrices),
      packed: (content, matrix) => (known?.content === content ? known.packed(matrix) : undefined),
    };
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
