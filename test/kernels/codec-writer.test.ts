import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CODERS, type CoderName } from '../../codec/coder.js';
import { contentDigest } from '../../codec/content-digest.js';
import type { DecodeContext } from '../../codec/context.js';
import { encodeDense } from '../../codec/dense-chunk.js';
import { encodeMaskSet, type EncodeOptions } from '../../codec/encode.js';
import { CodecError } from '../../codec/errors.js';
import { useFastCoders } from '../../codec/fast-coders.js';
import { encodeDenseFast } from '../../codec/fast-encode.js';
import type { MaskSet } from '../../codec/mask-set.js';
import { native } from '../../kernels/index.js';
import { codingOf, plansOf, randomCase, type Case } from './codec-cases.js';
import { onEveryIsa } from './every-isa.js';
import { random } from './numbers.js';

interface Family {
  readonly child: MaskSet;
  readonly context: Required<Omit<DecodeContext, 'buffers'>>;
}

/** Tensors that end within chunks and bytes; each changes another share of its parent's groups. */
function family(seed: number, symbolsOf: (one: Case) => Uint8Array = (one) => one.symbols): Family {
  const next = random(seed);
  const shapes = [
    [80, 260, 0.01],
    [1, 4, 1],
    [64, 256, 0.0001],
    [3, 12, 0.3],
    [130, 100, 0.6],
    [200, 96, 0.15],
  ] as const;
  const cases = shapes.map(([rows, cols, churn]) => randomCase(next, 'static', rows, cols, churn));
  const maskSet = (of: (one: Case) => Uint8Array): MaskSet => ({
    n: 2,
    m: 4,
    base: 'ba'.repeat(32),
    masks: cases.map((one, i) => ({ name: `w${i}`, rows: one.entry.rows, cols: one.entry.cols, symbols: of(one) })),
  });
  const parent = maskSet((one) => one.parent);
  const weights = (name: string): Uint16Array | undefined => cases[Number(name.slice(1))]?.weights;
  return { child: { ...maskSet(symbolsOf), parent: contentDigest(parent) }, context: { parent, weights } };
}

/** The two largest magnitudes of each group, the earlier of equal ones. */
function byMagnitude({ weights, symbols }: Case): Uint8Array {
  const pairs = ['01', '02', '03', '12', '13', '23'];
  return symbols.map((_, group) => {
    const order = [0, 1, 2, 3].sort((a, b) => {
      const [first, second] = [weights[4 * group + a]! & 0x7fff, weights[4 * group + b]! & 0x7fff];
      return second - first || a - b;
    });
    return pairs.indexOf(order.slice(0, 2).sort().join(''));
  });
}

function written(set: MaskSet, options: EncodeOptions): Uint8Array | string {
  try {
    return encodeMaskSet(set, options);
  } catch (error) {
    if (error instanceof CodecError) return `${error.code}: ${error.message}`;
    throw error;
  }
}

/** Asserts that a set is the same bytes, or refused in the same words, with native coders and without; returns them. */
function sameEitherWay(set: MaskSet, options: EncodeOptions): Uint8Array | string {
  useFastCoders(undefined);
  const slow = written(set, options);
  useFastCoders(native);
  assert.deepEqual(written(set, options), slow);
  return slow;
}

onEveryIsa(import.meta.url, () => {
  for (const coder of CODERS.map(({ name }) => name)) {
    test(`${coder}: a writer with native coders writes the bytes of one without`, () => {
      for (let seed = 0; seed < 3; seed++) {
        const { child, context } = family(seed, coder === 'magnitude' ? byMagnitude : undefined);
        for (const [chunkLog2, patchLog2] of [
          [12, 8],
          [18, 13],
        ] as const) {
          const bytes = sameEitherWay(child, { context, coder, chunkLog2, patchLog2 });
          assert.ok(bytes instanceof Uint8Array, String(bytes));
        }
      }
    });
  }

  test('it chooses the same coders, whatever there is to choose from', () => {
    for (let seed = 10; seed < 14; seed++) {
      for (const symbolsOf of [undefined, byMagnitude, (one: Case) => one.parent]) {
        const { child, context } = family(seed, symbolsOf);
        const { parent, weights } = context;
        for (const known of [{}, { parent }, { weights }, { parent, weights }]) {
          assert.ok(sameEitherWay(child, { context: known }) instanceof Uint8Array);
        }
      }
    }
  });

  test('it refuses what it can not write in the same words', () => {
    const { child, context } = family(20);
    const refusals: readonly [RegExp, MaskSet, DecodeContext, CoderName?][] = [
      [/^bad-symbol: .*largest/, child, context, 'magnitude'],
      [/^parent-missing/, child, {}, 'patch'],
      [/^weights-missing/, child, { parent: context.parent }, 'patch+weights'],
      [/^weights-mismatch/, child, { weights: () => new Uint16Array(8) }],
      [/^bad-symbol: .* got 6 in group 5 of w0/, withSymbol(child, 5, 6), {}],
      [/^bad-symbol: .* got 6 in group 5/, child, { parent: withSymbol(context.parent, 5, 6) }],
    ];
    for (const [message, set, known, coder] of refusals) {
      const { parent, ...orphan } = set;
      void parent;
      const result = sameEitherWay(orphan, { context: known, ...(coder === undefined ? {} : { coder }) });
      assert.match(String(result), message);
    }
  });

  test('chunks come out the same however many are encoded at a time', () => {
    const next = random(30);
    const cases = [40, 3, 200, 64].map((rows) => randomCase(next, 'weights', rows, 260));
    const coding = codingOf(cases);
    const plans = plansOf(cases).filter((plan) => plan.kind === 'dense');
    const masks = cases.map(({ entry, symbols }) => ({ ...entry, symbols }));
    const expected = plans.map(({ lanes, pieces }) =>
      encodeDense(lanes, pieces, coding, ({ tensor, first, count }) =>
        masks[tensor]!.symbols.subarray(first, first + count),
      ),
    );
    assert.ok(plans.length > 4);
    for (const room of [1, 20_000, 30_000, 10_000_000]) {
      assert.deepEqual(encodeDenseFast(native, plans, 12, coding, masks, room), expected);
    }
  });
});

function withSymbol(set: MaskSet, group: number, symbol: number): MaskSet {
  const [first, ...others] = set.masks;
  const symbols = first!.symbols.slice();
  symbols[group] = symbol;
  return { ...set, masks: [{ ...first!, symbols }, ...others] };
}
