import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { contentDigest } from '../../codec/content-digest.js';
import { checkContainer, ContainerReader, decodeMaskSet } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import { CODEC_ERRORS, CodecError } from '../../codec/errors.js';
import type { Mask, MaskSet } from '../../codec/mask-set.js';
import { nibblesToSymbols, patternTable } from '../../codec/pattern.js';
import { seal, sealChunks, takeApart } from './container-parts.js';
import { randomSymbols } from './random-sets.js';
import { simpleContentDigest } from './simple-content.js';
import { simpleDecode } from './simple-decoder.js';

const SEED = { seed: 20261124 };

const digests = fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => Buffer.from(bytes).toString('hex'));
const names = fc.string({ unit: fc.constantFrom(...'abz019._-/:~!'), minLength: 1, maxLength: 255 });

const mask = (n: number, m: number): fc.Arbitrary<Mask> =>
  fc
    .record({
      name: names,
      rows: fc.integer({ min: 1, max: 80 }),
      groups: fc.integer({ min: 1, max: 90 }),
      seed: fc.nat(),
    })
    .map(({ name, rows, groups, seed }) => ({
      name,
      rows,
      cols: groups * m,
      symbols: randomSymbols(seed, rows * groups, patternTable(n, m).count),
    }));

const maskSets: fc.Arbitrary<MaskSet> = fc
  .constantFrom([1, 4] as const, [2, 4] as const, [4, 8] as const)
  .chain(([n, m]) =>
    fc
      .record({
        base: digests,
        parent: fc.option(digests, { nil: undefined }),
        masks: fc.uniqueArray(mask(n, m), { selector: ({ name }) => name, minLength: 1, maxLength: 4 }),
      })
      .map(({ base, parent, masks }) => ({ n, m, base, ...(parent === undefined ? {} : { parent }), masks })),
  );

const chunkLog2s = fc.integer({ min: 12, max: 20 });

describe('any mask set', () => {
  it('comes back from its container, whole and tensor by tensor', () => {
    fc.assert(
      fc.property(maskSets, chunkLog2s, (set, chunkLog2) => {
        const bytes = encodeMaskSet(set, { chunkLog2 });
        assert.deepEqual(decodeMaskSet(bytes, { expectBase: set.base }), set);
        assert.equal(checkContainer(bytes).content, contentDigest(set));
        const reader = new ContainerReader(bytes);
        for (const [i, { symbols }] of set.masks.entries()) {
          assert.deepEqual(reader.symbols(i), symbols);
          if (set.n === 2) assert.deepEqual(nibblesToSymbols(reader.nibbles(i), symbols.length), symbols);
        }
      }),
      { ...SEED, numRuns: 150 },
    );
  });

  it('is the same to the decoder written from FORMAT.md alone', () => {
    fc.assert(
      fc.property(maskSets, (set) => {
        const simple = simpleDecode(encodeMaskSet(set, { chunkLog2: 12 }));
        assert.deepEqual(
          simple.tensors.map(({ symbols }) => Uint8Array.from(symbols)),
          set.masks.map(({ symbols }) => symbols),
        );
        assert.equal(simpleContentDigest(simple), simple.content);
      }),
      { ...SEED, numRuns: 15 },
    );
  });
});

describe('a changed container', () => {
  const changes = fc.array(fc.record({ at: fc.nat(), xor: fc.integer({ min: 1, max: 255 }) }), {
    minLength: 1,
    maxLength: 4,
  });

  it('is refused with a code of the table', () => {
    fc.assert(
      fc.property(maskSets, changes, (set, edits) => {
        const bytes = encodeMaskSet(set, { chunkLog2: 12 });
        const changed = bytes.slice();
        for (const { at, xor } of edits) changed[at % bytes.length]! ^= xor;
        fc.pre(Buffer.compare(changed, bytes) !== 0);
        assert.throws(() => checkContainer(changed), hasCode);
      }),
      { ...SEED, numRuns: 300 },
    );
  });

  it('is never accepted with other masks under the same content digest, even if all its checksums are made right', () => {
    fc.assert(
      fc.property(maskSets, changes, (set, edits) => {
        const parts = takeApart(encodeMaskSet(set, { chunkLog2: 12 }));
        for (const { at, xor } of edits) parts.payload[at % parts.payload.length]! ^= xor;
        sealChunks(parts);
        const changed = seal(parts);
        fc.pre(Buffer.compare(changed, encodeMaskSet(set, { chunkLog2: 12 })) !== 0);
        assert.throws(
          () => decodeMaskSet(changed),
          (error) => hasCode(error) && /overrun|mismatch/.test(error.code),
        );
      }),
      { ...SEED, numRuns: 300 },
    );
  });

  it('is refused when cut anywhere or continued', () => {
    fc.assert(
      fc.property(maskSets, fc.nat(), fc.uint8Array({ minLength: 1, maxLength: 9 }), (set, at, more) => {
        const bytes = encodeMaskSet(set);
        assert.throws(() => checkContainer(bytes.subarray(0, at % bytes.length)), { code: 'truncated' });
        assert.throws(() => checkContainer(Uint8Array.of(...bytes, ...more)), { code: 'trailing-bytes' });
      }),
      { ...SEED, numRuns: 100 },
    );
  });
});

function hasCode(error: unknown): error is CodecError {
  return error instanceof CodecError && error.code in CODEC_ERRORS;
}
