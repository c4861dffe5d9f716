/** Mask sets that differ in a few groups from their parent, and their containers: coded against it, or not. Same seed, same bytes. */
import { contentDigest } from '../../../codec/content-digest.js';
import { decodeMaskSet } from '../../../codec/decode.js';
import { encodeMaskSet } from '../../../codec/encode.js';
import type { Digest, MaskSet } from '../../../codec/mask-set.js';
import { randomFrom, sampleContainer } from './sample-masks.js';

export interface Member {
  readonly set: MaskSet;
  readonly content: Digest;
  /** Coded against the parent, if it has one. */
  readonly bytes: Uint8Array;
  /** Of the same content, decoding by itself. */
  readonly flat: Uint8Array;
}

export function rootMember(seed: number): Member {
  const bytes = sampleContainer(seed);
  const set = decodeMaskSet(bytes);
  return { set, content: contentDigest(set), bytes, flat: bytes };
}

/** A child of `parent` with `churn` of its groups changed. */
export function childOf(parent: Member, seed: number, churn = 0.02): Member {
  const random = randomFrom(seed);
  const masks = parent.set.masks.map((mask) => ({
    ...mask,
    symbols: mask.symbols.map((symbol) => (random() < churn ? (symbol + 1 + Math.floor(random() * 5)) % 6 : symbol)),
  }));
  const set: MaskSet = { ...parent.set, parent: parent.content, masks };
  const bytes = encodeMaskSet(set, { context: { parent: parent.set }, coder: 'patch' });
  return { set, content: contentDigest(set), bytes, flat: encodeMaskSet(set) };
}

/** A root and `length − 1` descendants, each the child of the one before. */
export function chainOf(length: number, seed: number): Member[] {
  const chain = [rootMember(seed)];
  while (chain.length < length) chain.push(childOf(chain.at(-1) as Member, seed + chain.length));
  return chain;
}
