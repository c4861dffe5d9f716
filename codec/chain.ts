/** A child of a child of a root: decodes what a container stands on first. FORMAT.md §11 (depth) and §7 (needs). */
import type { Handle } from '../kernels/handle.js';
import { byteSource, type ByteSource } from './byte-source.js';
import type { DecodeContext, MatrixShape, NativeBuffers, WeightsLookup } from './context.js';
import { ContainerReader, type DecodeOptions } from './decode.js';
import { parentMissing } from './decoder-inputs.js';
import { CodecError } from './errors.js';
import { LIMITS } from './limits.js';
import type { Digest, MaskSet } from './mask-set.js';

/** Where a chain's other members come from. */
export interface ChainLookup {
  /** The container (bytes or source), or the decoded set, of a content digest; undefined if there is none. */
  readonly parent: (content: Digest) => Uint8Array | ByteSource | MaskSet | undefined;
  readonly weights?: WeightsLookup;
  /** For native coders, in place of `weights`. */
  readonly weightBuffers?: NativeBuffers['weights'];
  /** For native coders: a matrix of the set of this content digest as compress24 wrote it, if it is in memory so. */
  readonly packed?: (content: Digest, matrix: MatrixShape) => Handle | undefined;
}

/**
 * Opens a container with all it needs: its ancestors are decoded, root first, each compared with the content digest that its child names.
 * Throws CodecError `parent-missing`, `chain-too-deep`, `content-mismatch`, and what the constructor of ContainerReader throws.
 */
export function openChain(
  source: Uint8Array | ByteSource,
  lookup: ChainLookup,
  options: Omit<DecodeOptions, 'context'> = {},
): ContainerReader {
  return open(source, lookup, options, 1);
}

/** Decodes a whole set with all it needs. Throws CodecError as `openChain` does, and as `ContainerReader.maskSet`. */
export function decodeChain(
  source: Uint8Array | ByteSource,
  lookup: ChainLookup,
  options: Omit<DecodeOptions, 'context'> = {},
): MaskSet {
  return openChain(source, lookup, options).maskSet();
}

function open(
  source: Uint8Array | ByteSource,
  lookup: ChainLookup,
  options: Omit<DecodeOptions, 'context'>,
  depth: number,
): ContainerReader {
  const { weights, weightBuffers } = lookup;
  const context: DecodeContext = {
    ...(weights === undefined ? {} : { weights }),
    ...(weightBuffers === undefined ? {} : { buffers: { weights: weightBuffers } }),
  };
  const reader = new ContainerReader(source, { ...options, context });
  const digest = reader.needs.parent;
  if (digest === undefined) return reader;
  const [, deepest] = LIMITS.chain;
  if (depth >= deepest) {
    throw new CodecError(
      'chain-too-deep',
      `expected at most ${deepest} mask sets that stand on each other, got more: encode the set without a parent`,
    );
  }
  const parent = decodeParent(digest, lookup, options, depth);
  const { packed } = lookup;
  const buffers: NativeBuffers = {
    ...context.buffers,
    ...(packed === undefined ? {} : { packedParent: (matrix) => packed(digest, matrix) }),
  };
  return new ContainerReader(source, { ...options, context: { ...context, parent, buffers } });
}

function decodeParent(
  digest: Digest,
  lookup: ChainLookup,
  options: Omit<DecodeOptions, 'context'>,
  depth: number,
): MaskSet {
  const found = lookup.parent(digest);
  if (found === undefined) throw parentMissing(digest);
  if ('masks' in found) return found;
  const reader = open(byteSource(found), lookup, options, depth + 1);
  if (reader.summary.content !== digest) {
    throw new CodecError('parent-mismatch', `expected the parent ${digest}, got ${reader.summary.content}`);
  }
  return reader.maskSet();
}
