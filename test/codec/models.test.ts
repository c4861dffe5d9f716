import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { CODERS, type CoderName } from '../../codec/coder.js';
import type { DecodeContext } from '../../codec/context.js';
import { ContainerReader, decodeMaskSet, decodePatch } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import type { MaskSet } from '../../codec/mask-set.js';
import { NIBBLE_OF_SYMBOL, patternTable } from '../../codec/pattern.js';
import { rankGroups, symbolOfRanks } from '../../codec/ranks.js';
import { randomChild, randomSet, randomWeights, simpleContext } from './random-sets.js';
import { simpleContentDigest } from './simple-content.js';
import { simpleDecode } from './simple-decoder.js';

const SEED = { seed: 20261125 };
const PATTERNS = [
  [1, 4],
  [2, 4],
  [4, 8],
] as const;

/** A set with its parent and weights, all sizes odd now and then. */
interface Family {
  readonly parent: MaskSet;
  readonly child: MaskSet;
  readonly context: Required<Omit<DecodeContext, 'buffers'>>;
  /** Of 10,000 groups. */
  readonly changed: number;
}

const families: fc.Arbitrary<Family> = fc
  .record({
    pattern: fc.constantFrom(...PATTERNS),
    rows: fc.array(fc.integer({ min: 1, max: 90 }), { minLength: 1, maxLength: 4 }),
    groups: fc.integer({ min: 1, max: 70 }),
    changed: fc.constantFrom(0, 3, 100, 4000, 10_000),
    seed: fc.nat({ max: 2 ** 30 }),
  })
  .map(({ pattern, rows, groups, changed, seed }) => {
    const shapes = Object.fromEntries(rows.map((count, i) => [`w.${10 - i}.w`, [count, groups * pattern[1]] as const]));
    const parent = randomSet(seed, pattern, shapes);
    const context = { parent, weights: randomWeights(seed, shapes) };
    return { parent, child: randomChild(seed + 1, parent, changed), context, changed };
  });

const chunking = { chunkLog2: fc.constantFrom(12, 13, 20), patchLog2: fc.constantFrom(8, 13) };

describe('every coder', () => {
  for (const { name } of CODERS.filter((coder) => coder.form !== 'none')) {
    it(`${name} gives back any set of any n:m, and the decoder written from FORMAT.md alone reads the same`, () => {
      fc.assert(
        fc.property(families, fc.record(chunking), ({ child, context }, sizes) => {
          const bytes = encodeMaskSet(child, { context, coder: name, ...sizes });
          assert.deepEqual(decodeMaskSet(bytes, { context, expectBase: child.base }), child);
          assert.ok(new ContainerReader(bytes, { context }).summary.tensors.every(({ coder }) => coder === name));
          compareWithSimple(bytes, child, context);
        }),
        { ...SEED, numRuns: 12 },
      );
    });
  }

  it('magnitude stands for the largest weights of each group, the earlier ones of equals, at no cost', () => {
    for (const [n, m] of PATTERNS) {
      const shapes = { w: [37, 5 * m], v: [1, m] } as const;
      const weights = randomWeights(n, shapes);
      const set = byMagnitude(randomSet(n, [n, m], shapes), weights);
      const bytes = encodeMaskSet(set, { context: { weights } });
      const { summary } = new ContainerReader(bytes, { context: { weights } });
      assert.deepEqual([...new Set(summary.tensors.map(({ coder }) => coder))], ['magnitude']);
      assert.equal(summary.payloadBytes, 0);
      assert.deepEqual(decodeMaskSet(bytes, { context: { weights } }), set);
      compareWithSimple(bytes, set, { weights });
      assert.throws(() => encodeMaskSet(randomSet(9, [n, m], shapes), { coder: 'magnitude', context: { weights } }), {
        code: 'bad-symbol',
      });
    }
  });
});

describe('the encoder', () => {
  it('takes for each set what is smallest, and what it takes decodes', () => {
    fc.assert(
      fc.property(families, ({ child, context, changed }) => {
        const best = encodeMaskSet(child, { context });
        assert.deepEqual(decodeMaskSet(best, { context }), child);
        compareWithSimple(best, child, context);
        for (const { name, form } of CODERS) {
          if (form === 'none' || name === 'uniform-ac' || (form === 'patch' && changed > 2500)) continue;
          const forced = encodeMaskSet(child, { context, coder: name });
          // Choices go by the bits of the tables; a few bytes of rounding a tensor are nobody's loss.
          assert.ok(best.length <= 1.04 * forced.length + 40, `${best.length} bytes, ${name} has ${forced.length}`);
        }
      }),
      { ...SEED, numRuns: 25 },
    );
  });

  it('mixes coders: a tensor by magnitude, one like its parent, one of its own', () => {
    const shapes = { magnitude: [64, 64], patched: [64, 64], own: [64, 64] } as const;
    const parent = randomSet(1, [2, 4], shapes);
    const weights = randomWeights(1, shapes);
    const [, second] = randomChild(2, parent, 100).masks;
    const masks = [byMagnitude(parent, weights).masks[0]!, second!, randomSet(77, [2, 4], shapes).masks[2]!];
    const set = { ...randomChild(2, parent, 0), masks };
    const context = { parent, weights };
    const bytes = encodeMaskSet(set, { context });
    const { tensors } = new ContainerReader(bytes, { context }).summary;
    assert.deepEqual(
      tensors.map(({ name, coder }) => [name, coder.replace('+weights', '')]),
      [
        ['magnitude', 'magnitude'],
        ['patched', 'patch'],
        ['own', 'uniform'],
      ],
    );
    assert.deepEqual(decodeMaskSet(bytes, { context }), set);
    compareWithSimple(bytes, set, context);
  });

  it('needs nothing that it was not given', () => {
    const shapes = { w: [64, 64] } as const;
    const parent = randomSet(1, [2, 4], shapes);
    const child = randomChild(2, parent, 100);
    assert.deepEqual(new ContainerReader(encodeMaskSet(child)).needs, { parent: undefined, weights: false });
    const patch = new ContainerReader(encodeMaskSet(child, { context: { parent } }));
    assert.deepEqual(patch.needs, { parent: child.parent, weights: false });
    assert.deepEqual(patch.summary.tensors, [], 'its tensors are the parent’s');
    assert.equal(patch.summary.parameters, 64 * 64);
  });

  it('refuses coders whose needs are not there, and a parent that the set does not name', () => {
    const shapes = { w: [8, 8] } as const;
    const set = randomSet(1, [2, 4], shapes);
    const parent = randomSet(2, [2, 4], shapes);
    assert.throws(() => encodeMaskSet(set, { coder: 'patch' }), { code: 'parent-missing' });
    assert.throws(() => encodeMaskSet(set, { coder: 'weights' }), { code: 'weights-missing' });
    const short = (): Uint16Array => new Uint16Array(3);
    assert.throws(() => encodeMaskSet(set, { context: { weights: short } }), { code: 'weights-mismatch' });
    const named = { ...set, parent: 'ab'.repeat(32) };
    assert.throws(() => encodeMaskSet(named, { context: { parent } }), { code: 'parent-mismatch' });
    const elsewhere = { ...parent, base: 'cd'.repeat(32) };
    assert.throws(() => encodeMaskSet(set, { context: { parent: elsewhere } }), { code: 'parent-mismatch' });
  });
});

describe('a patch', () => {
  it('is given as the changed groups and their new codes, whatever coded it', () => {
    fc.assert(
      fc.property(
        families,
        fc.constantFrom<CoderName>('patch', 'patch+weights', 'parent', 'uniform'),
        (family, coder) => {
          const { parent, child, context } = family;
          const patches = decodePatch(encodeMaskSet(child, { context, coder }), context);
          assert.deepEqual(
            patches.map(({ name }) => name),
            child.masks.map(({ name }) => name),
          );
          patches.forEach(({ groups, codes }, t) => {
            const patched = parent.masks[t]!.symbols.slice();
            groups.forEach((group, i) => {
              const symbol = child.n === 2 ? NIBBLE_OF_SYMBOL.indexOf(codes[i]!) : codes[i]!;
              assert.notEqual(patched[group], symbol);
              patched[group] = symbol;
            });
            assert.deepEqual(patched, child.masks[t]!.symbols);
            assert.deepEqual(groups, groups.slice().sort());
          });
        },
      ),
      { ...SEED, numRuns: 30 },
    );
  });

  it('of few changes is a few bytes beside what names it: the tensors are the parent’s', () => {
    const shapes = Object.fromEntries(
      Array.from({ length: 210 }, (_, i) => [`layers.${i}.weight`, [64, 256] as const]),
    );
    const parent = randomSet(5, [2, 4], shapes);
    const child = randomChild(6, parent, 1);
    const changes = decodePatch(encodeMaskSet(child, { context: { parent } }), { parent });
    const count = changes.reduce((sum, { groups }) => sum + groups.length, 0);
    assert.ok(count > 50 && count < 120, `${count}`);
    const { length } = encodeMaskSet(child, { context: { parent } });
    assert.ok(length < 160 + 210 + 3 * count + 80, `${length} bytes for ${count} changes`);
  });

  it('keeps within 5% of the reference entropy where swaps follow the weights’ order', () => {
    const shapes = { a: [512, 1024], b: [256, 2048] } as const;
    const parent = randomSet(8, [2, 4], shapes);
    const weights = randomWeights(8, shapes);
    const child = randomChild(9, parent, 120);
    const { payloadBytes } = new ContainerReader(encodeMaskSet(child, { context: { parent, weights } })).summary;
    const entropy = referenceEntropy(parent, child, weights);
    assert.ok(payloadBytes <= 1.05 * entropy, `${payloadBytes} bytes, reference ${entropy}`);
  });
});

/** FORMAT.md §7, in bytes. */
function referenceEntropy(parent: MaskSet, child: MaskSet, weights: NonNullable<DecodeContext['weights']>): number {
  const patterns = patternTable(2, 4);
  const counts = new Map<number, Map<number, number>>();
  child.masks.forEach(({ name, symbols }, t) => {
    const { order, bucket } = rankGroups(weights(name)!, patterns, { first: 0, count: symbols.length });
    const rankPattern = Array.from({ length: 6 }, () => 0);
    symbols.forEach((symbol, group) => {
      for (let k = 0; k < 6; k++) rankPattern[symbolOfRanks(patterns, order, 4 * group, k)] = k;
      const context = 10 * rankPattern[parent.masks[t]!.symbols[group]!]! + bucket[group]!;
      const row = counts.get(context) ?? new Map<number, number>();
      counts.set(context, row.set(rankPattern[symbol]!, (row.get(rankPattern[symbol]!) ?? 0) + 1));
    });
  });
  let bits = 0;
  for (const row of counts.values()) {
    const all = [...row.values()].reduce((sum, count) => sum + count, 0);
    for (const count of row.values()) bits += count * Math.log2(all / count);
  }
  return bits / 8;
}

function byMagnitude(set: MaskSet, weights: NonNullable<DecodeContext['weights']>): MaskSet {
  const patterns = patternTable(set.n, set.m);
  const masks = set.masks.map((mask) => {
    const { order } = rankGroups(weights(mask.name)!, patterns, { first: 0, count: mask.symbols.length });
    return { ...mask, symbols: mask.symbols.map((_, i) => symbolOfRanks(patterns, order, i * set.m, 0)) };
  });
  return { ...set, masks };
}

function compareWithSimple(bytes: Uint8Array, set: MaskSet, context: DecodeContext): void {
  const simple = simpleDecode(bytes, simpleContext(context));
  assert.deepEqual(
    simple.tensors.map(({ name, rows, cols, symbols }) => ({ name, rows, cols, symbols: Uint8Array.from(symbols) })),
    set.masks.map(({ name, rows, cols, symbols }) => ({ name, rows, cols, symbols })),
  );
  assert.equal(simpleContentDigest(simple), simple.content);
  assert.equal(simple.parent, set.parent);
}
