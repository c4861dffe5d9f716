import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CoderName } from '../../codec/coder.js';
import { contentDigest } from '../../codec/content-digest.js';
import type { DecodeContext } from '../../codec/context.js';
import { ContainerReader } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import { CodecError } from '../../codec/errors.js';
import { useFastCoders } from '../../codec/fast-coders.js';
import type { MaskSet } from '../../codec/mask-set.js';
import { native } from '../../kernels/index.js';
import { damaged, randomCase } from './codec-cases.js';
import { onEveryIsa } from './every-isa.js';
import { random } from './numbers.js';

const CODERS: readonly CoderName[] = [
  'uniform-ac',
  'uniform',
  'static',
  'parent',
  'weights',
  'scaled-weights',
  'parent+weights',
  'patch',
  'patch+weights',
];

interface Example {
  readonly file: Uint8Array;
  readonly context: DecodeContext;
}

/** A set whose tensors end in the middle of chunks, some of them smaller than a step. */
function example(coder: CoderName | undefined, seed: number): Example {
  const next = random(seed);
  const shapes = [
    [80, 260],
    [1, 4],
    [64, 256],
    [3, 12],
    [130, 100],
  ] as const;
  const cases = shapes.map(([rows, cols]) => randomCase(next, 'static', rows, cols, 0.03));
  const maskSet = (symbolsOf: (one: (typeof cases)[number]) => Uint8Array): MaskSet => ({
    n: 2,
    m: 4,
    base: 'ba'.repeat(32),
    masks: cases.map((one, i) => ({
      name: `w${4 - i}`,
      rows: one.entry.rows,
      cols: one.entry.cols,
      symbols: symbolsOf(one),
    })),
  });
  const parent = maskSet((one) => one.parent);
  const child = { ...maskSet((one) => one.symbols), parent: contentDigest(parent) };
  const weights = (name: string): Uint16Array | undefined => cases[4 - Number(name.slice(1))]?.weights;
  const context = { parent, weights };
  const file = encodeMaskSet(child, {
    context,
    chunkLog2: 12,
    patchLog2: 8,
    ...(coder === undefined ? {} : { coder }),
  });
  return { file, context };
}

/** What a reader says of a file: its masks in the order asked for, or the error. */
function read(file: Uint8Array, context: DecodeContext, order: readonly number[]): unknown {
  try {
    const reader = new ContainerReader(file, { context });
    return order.map((i) => [reader.nibbles(i), reader.symbols(i), reader.patch(i)]);
  } catch (error) {
    if (error instanceof CodecError) return `${error.code}: ${error.message}`;
    throw error;
  }
}

function readBoth(
  file: Uint8Array,
  context: DecodeContext,
  order: readonly number[],
): { fast: unknown; slow: unknown } {
  useFastCoders(undefined);
  const slow = read(file, context, order);
  useFastCoders(native);
  return { fast: read(file, context, order), slow };
}

onEveryIsa(import.meta.url, () => {
  for (const coder of [...CODERS, undefined]) {
    test(`a reader with native coders reads ${coder ?? 'what the encoder chooses'} in any order as one without`, () => {
      const { file, context } = example(coder, 1);
      for (const order of [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 2, 0, 4, 1], [3]]) {
        const { fast, slow } = readBoth(file, context, order);
        assert.ok(Array.isArray(slow), String(slow));
        assert.deepEqual(fast, slow);
      }
    });
  }

  test('it refuses damaged files with the same words, and hands the whole set over alike', () => {
    const next = random(5);
    for (const coder of CODERS) {
      const { file, context } = example(coder, 2);
      assert.deepEqual(new ContainerReader(file, { context }).maskSet().masks.length, 5);
      for (let round = 0; round < 25; round++) {
        const { fast, slow } = readBoth(damaged(next, file), context, [0, 1, 2, 3, 4]);
        assert.deepEqual(fast, slow, coder);
      }
    }
  });
});
