import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ContainerReader } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import type { Mask } from '../../codec/mask-set.js';
import { randomSet } from './random-sets.js';

const SET = randomSet(1, [2, 4], { w: [4, 8] });
const MASK = SET.masks[0]!;

describe('encoding refuses a set that the format cannot hold', () => {
  const refused: readonly [code: string, what: string, set: typeof SET, message: RegExp][] = [
    ['unsupported-pattern', 'another n:m', { ...SET, n: 3 }, /one of 1:4, 2:4, 4:8, got 3:4/],
    ['bad-digest', 'a base in capitals', { ...SET, base: 'AB'.repeat(32) }, /expected base to be a sha256/],
    ['bad-digest', 'a short parent', { ...SET, parent: 'ab' }, /expected parent to be a sha256 .*, got "ab"/],
    ['length-limit', 'no masks', { ...SET, masks: [] }, /expected tensorCount from 1 to 16384, got 0/],
    ['length-limit', 'too many masks', { ...SET, masks: manyMasks(16_385) }, /got 16385/],
    ['bad-name', 'an empty name', withMask({ name: '' }), /1 to 255 printable ASCII characters, got ""/],
    ['bad-name', 'a long name', withMask({ name: 'x'.repeat(256) }), /name of tensor 0/],
    ['bad-name', 'a name that is not ASCII', withMask({ name: 'größe' }), /got "größe"/],
    ['bad-name', 'a name that ends a line', withMask({ name: 'w\n' }), /got "w\\n"/],
    ['duplicate-tensor', 'a name twice', { ...SET, masks: [MASK, MASK] }, /got w twice/],
    ['bad-shape', 'no rows', withMask({ rows: 0 }), /rows of w from 1 to 16777216, got 0/],
    ['bad-shape', 'cols that 4 does not divide', withMask({ cols: 6 }), /cols of w to be a multiple of 4, got 6/],
    ['bad-shape', 'half a row', withMask({ rows: 2.5 }), /got 2.5/],
    ['bad-shape', 'too many groups', withMask({ rows: 2 ** 20, cols: 2 ** 20 }), /groups of w \(1048576 × 1048576\)/],
    ['bad-symbol', 'too few symbols', withMask({ rows: 5 }), /expected 10 symbols for w \(5 × 8, 2:4\), got 8/],
    [
      'bad-symbol',
      'a symbol above 5',
      withMask({ symbols: new Uint8Array(8).fill(6) }),
      /0 to 5, got 6 in group 0 of w/,
    ],
  ];
  for (const [code, what, set, message] of refused) {
    it(`${what}: ${code}`, () => assert.throws(() => encodeMaskSet(set), { name: 'CodecError', code, message }));
  }

  it('chunks outside the limits', () => {
    for (const chunkLog2 of [11, 21, 12.5])
      assert.throws(() => encodeMaskSet(SET, { chunkLog2 }), { code: 'length-limit' });
  });
});

describe('the size of a container', () => {
  it('meets the bar on two matrices of the 162M model: payload within 0.001 bit, file within 1% of log2(6)/4', () => {
    const set = randomSet(162, [2, 4], {
      'model.layers.0.self_attn.q_proj.weight': [768, 768],
      'model.layers.0.mlp.down_proj.weight': [768, 3072],
    });
    const { parameters, payloadBytes, bitsPerParameter } = new ContainerReader(encodeMaskSet(set)).summary;
    const payloadBits = (8 * payloadBytes) / parameters;
    const bar = Math.log2(6) / 4 + 0.001;
    assert.ok(payloadBits <= bar, `payload ${payloadBits}`);
    assert.ok(bitsPerParameter <= 1.01 * bar, `file ${bitsPerParameter}`);
  });
});

function withMask(change: Partial<Mask>): typeof SET {
  return { ...SET, masks: [{ ...MASK, ...change }] };
}

function manyMasks(count: number): Mask[] {
  return Array.from({ length: count }, (_, i) => ({ ...MASK, name: `w${i}` }));
}
