import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { contentDigest } from '../../codec/content-digest.js';
import { ContainerReader } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import type { Mask, MaskSet } from '../../codec/mask-set.js';
import { OTHER_BASE, randomSet } from './random-sets.js';
import { simpleContentDigest } from './simple-content.js';

const SHAPES = { 'b.weight': [16, 24], 'a.weight': [3, 8], 'a.10.weight': [64, 4096] } as const;

describe('the content digest', () => {
  it('is what FORMAT.md §8 says, for every n:m', () => {
    for (const [n, m] of [
      [1, 4],
      [2, 4],
      [4, 8],
    ] as const) {
      const set = randomSet(1, [n, m], SHAPES);
      const tensors = set.masks.map((mask) => ({ ...mask, symbols: [...mask.symbols] }));
      assert.equal(contentDigest(set), simpleContentDigest({ n, m, base: set.base, tensors }));
    }
  });

  it('does not depend on the order of the tensors, the chunk size or the parent', () => {
    const set = randomSet(2, [2, 4], SHAPES);
    const digest = contentDigest(set);
    assert.equal(contentDigest({ ...set, masks: [...set.masks].reverse() }), digest);
    assert.equal(contentDigest({ ...set, parent: OTHER_BASE }), digest);
    for (const chunkLog2 of [12, 16, 20]) {
      assert.equal(new ContainerReader(encodeMaskSet(set, { chunkLog2 })).summary.content, digest);
    }
  });

  it('changes with the base, a symbol, a name, a shape, and a tensor more or less', () => {
    const set = randomSet(3, [2, 4], SHAPES);
    const [first, ...rest] = set.masks as [Mask, ...Mask[]];
    const symbols = first.symbols.slice();
    symbols[95] = (symbols[95]! + 1) % 6;
    const others: MaskSet[] = [
      set,
      { ...set, base: OTHER_BASE },
      { ...set, masks: [{ ...first, symbols }, ...rest] },
      { ...set, masks: [{ ...first, name: 'c.weight' }, ...rest] },
      { ...set, masks: [{ ...first, rows: 24, cols: 16 }, ...rest] },
      { ...set, masks: rest },
      { ...set, masks: [...set.masks, { ...first, name: 'd.weight' }] },
    ];
    assert.equal(new Set(others.map(contentDigest)).size, others.length);
  });
});
