import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { byteSource } from '../../codec/byte-source.js';
import { decodeChain, openChain, type ChainLookup } from '../../codec/chain.js';
import { contentDigest } from '../../codec/content-digest.js';
import { encodeMaskSet } from '../../codec/encode.js';
import type { MaskSet } from '../../codec/mask-set.js';
import { BASE, randomChild, randomSet, randomWeights } from './random-sets.js';

const SHAPES = { 'b.weight': [64, 64], 'a.weight': [3, 8], 'a.10.weight': [32, 64] } as const;
const weights = randomWeights(1, SHAPES);

/** A root and its descendants, each coded against the one before. */
function makeChain(length: number): { sets: MaskSet[]; files: Uint8Array[]; lookup: ChainLookup } {
  const sets = [randomSet(1, [2, 4], SHAPES)];
  while (sets.length < length) sets.push(randomChild(sets.length, sets.at(-1)!, 200));
  const files = sets.map((set, i) =>
    encodeMaskSet(set, { context: { weights, ...(i === 0 ? {} : { parent: sets[i - 1]! }) } }),
  );
  const byContent = new Map(sets.map((set, i) => [contentDigest(set), files[i]!]));
  return { sets, files, lookup: { parent: (content) => byContent.get(content), weights } };
}

describe('a chain of mask sets', () => {
  it('decodes from the root on, up to eight sets', () => {
    const { sets, files, lookup } = makeChain(8);
    files.forEach((file, i) => assert.deepEqual(decodeChain(file, lookup, { expectBase: BASE }), sets[i]));
  });

  it('shows inherited tensors in the order of the root', () => {
    const { files, lookup } = makeChain(3);
    const { summary } = openChain(files[2]!, lookup);
    assert.deepEqual(
      summary.tensors.map(({ name }) => name),
      Object.keys(SHAPES),
    );
  });

  it('of nine is refused', () => {
    const { files, lookup } = makeChain(9);
    assert.throws(() => decodeChain(files[8]!, lookup), { code: 'chain-too-deep', message: /at most 8 mask sets/ });
  });

  it('takes ancestors as bytes, as sources and as decoded sets', () => {
    const { sets, files } = makeChain(2);
    for (const parent of [files[0]!, byteSource(files[0]!), sets[0]!]) {
      assert.deepEqual(decodeChain(files[1]!, { parent: () => parent, weights }), sets[1]);
    }
  });

  it('names the parent that is missing, and refuses another one', () => {
    const { sets, files } = makeChain(2);
    const missing = { code: 'parent-missing', message: new RegExp(contentDigest(sets[0]!)) };
    assert.throws(() => decodeChain(files[1]!, { parent: () => undefined, weights }), missing);
    const other = encodeMaskSet(randomSet(7, [2, 4], SHAPES));
    assert.throws(() => decodeChain(files[1]!, { parent: () => other, weights }), { code: 'parent-mismatch' });
    const otherSet = randomSet(7, [2, 4], SHAPES);
    assert.throws(() => decodeChain(files[1]!, { parent: () => otherSet, weights }), { code: 'content-mismatch' });
  });

  it('stays whole when the parent is encoded in another way and order: a child names what it holds', () => {
    const { sets, files } = makeChain(2);
    const again = encodeMaskSet({ ...sets[0]!, masks: [...sets[0]!.masks].reverse() }, { coder: 'uniform-ac' });
    const { masks } = decodeChain(files[1]!, { parent: () => again, weights });
    assert.deepEqual(masks, [...sets[1]!.masks].reverse());
  });
});
