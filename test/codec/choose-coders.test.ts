import assert from 'node:assert/strict';
import { it } from 'node:test';
import { ContainerReader } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import type { MaskSet } from '../../codec/mask-set.js';
import { patternTable } from '../../codec/pattern.js';
import { rankGroups, rankPatternOf, symbolOfRanks } from '../../codec/ranks.js';
import { randomSet, randomWeights } from './random-sets.js';

const SHAPES = { 'a.weight': [128, 512], 'b.weight': [128, 512] } as const;
const PATTERNS = patternTable(2, 4);
const EVERY = 5;

const PARENT = randomSet(70, [2, 4], SHAPES);
const weights = randomWeights(71, SHAPES);

/** What changes in a follows from the parent's symbol, in b from its rank pattern: each alone would have its own patch coder. */
function child(): MaskSet {
  const [a, b] = PARENT.masks as [MaskSet['masks'][number], MaskSet['masks'][number]];
  const { order } = rankGroups(weights(b.name) as Uint16Array, PATTERNS, { first: 0, count: b.symbols.length });
  const changed = (symbols: Uint8Array, next: (symbol: number, group: number) => number): Uint8Array =>
    symbols.map((symbol, group) => (group % EVERY === 0 ? next(symbol, group) : symbol));
  const byRanks = (symbol: number, group: number): number =>
    symbolOfRanks(PATTERNS, order, 4 * group, (rankPatternOf(PATTERNS, order, 4 * group, symbol) + 1) % 6);
  return {
    ...PARENT,
    masks: [
      { ...a, symbols: changed(a.symbols, (symbol) => (symbol + 1) % 6) },
      { ...b, symbols: changed(b.symbols, byRanks) },
    ],
  };
}

function codersOf(set: MaskSet): string[] {
  const context = { parent: PARENT, weights };
  return new ContainerReader(encodeMaskSet(set, { context }), { context }).summary.tensors.map(({ coder }) => coder);
}

it('the patches of a set have one coder, whatever each alone would have', () => {
  const both = child();
  const alone = both.masks.map((_, i) =>
    codersOf({ ...both, masks: both.masks.map((mask, j) => (i === j ? mask : PARENT.masks[j]!)) }),
  );
  assert.equal(alone[0]![0], 'patch');
  assert.equal(alone[1]![1], 'patch+weights');
  const together = codersOf(both);
  assert.equal(new Set(together).size, 1, together.join(', '));
});
