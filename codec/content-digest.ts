/**
 * Content digest (FORMAT.md §10): names what a mask set holds, whatever its coder, chunk size or order of tensors.
 * Two levels: a sha256 for each tensor, and one over those, so that tensors can be hashed as they are decoded.
 */
import { asciiBytes, bytesToDigest, digestToBytes } from './digest.js';
import { fastCoders } from './fast-coders.js';
import type { Digest, MaskSet } from './mask-set.js';
import { canonicalBytes, patternTable, symbolsToNibbles, type PatternTable } from './pattern.js';
import { sha256 } from './sha256.js';

const DOMAIN = 'maskserve content 1\n';

export interface NamedTensorDigest {
  readonly name: string;
  /** (32) */
  readonly digest: Uint8Array;
}

/** Hashes one tensor's canonical codes, chunk by chunk. Every update but the last must have an even number of symbols. */
export class TensorHash {
  private readonly hash = sha256();
  private codes = new Uint8Array(0);

  constructor(
    private readonly patterns: PatternTable,
    readonly name: string,
    rows: number,
    cols: number,
  ) {
    const head = new Uint8Array(1 + name.length + 8);
    const view = new DataView(head.buffer);
    head[0] = name.length;
    head.set(asciiBytes(name), 1);
    view.setUint32(1 + name.length, rows, true);
    view.setUint32(5 + name.length, cols, true);
    this.hash.update(head);
  }

  update(symbols: Uint8Array): void {
    if (this.patterns.n !== 2) {
      this.hash.update(symbols);
      return;
    }
    const bytes = canonicalBytes(this.patterns, symbols.length);
    if (this.codes.length < bytes) this.codes = new Uint8Array(bytes);
    const codes = this.codes.subarray(0, bytes);
    // Native code says no to a symbol that is none; this one says which.
    if (fastCoders()?.packSymbols(codes, symbols) !== true) symbolsToNibbles(symbols, codes);
    this.hash.update(codes);
  }

  digest(): NamedTensorDigest {
    return { name: this.name, digest: this.hash.digest() };
  }
}

/** The content digest of a set from the digests of its tensors, in any order. */
export function combineTensorDigests(
  base: Digest,
  patterns: PatternTable,
  tensors: readonly NamedTensorDigest[],
): Digest {
  const head = new Uint8Array(6);
  head[0] = patterns.n;
  head[1] = patterns.m;
  new DataView(head.buffer).setUint32(2, tensors.length, true);
  const hash = sha256();
  for (const part of [asciiBytes(DOMAIN), digestToBytes(base, 'base'), head]) hash.update(part);
  // Names are ASCII, so that < on strings is byte order.
  for (const tensor of [...tensors].sort((a, b) => (a.name < b.name ? -1 : 1))) hash.update(tensor.digest);
  return bytesToDigest(hash.digest());
}

/** The content digest of a set in memory. Throws CodecError `bad-symbol`, `bad-digest`, `unsupported-pattern`. */
export function contentDigest(set: MaskSet): Digest {
  const patterns = patternTable(set.n, set.m);
  const tensors = set.masks.map((mask) => {
    const hash = new TensorHash(patterns, mask.name, mask.rows, mask.cols);
    // In pieces, so that the canonical codes of a large matrix are never all in memory.
    for (let at = 0; at < mask.symbols.length; at += 65536) hash.update(mask.symbols.subarray(at, at + 65536));
    return hash.digest();
  });
  return combineTensorDigests(set.base, patterns, tensors);
}
