import assert from 'node:assert/strict';
import { test } from 'node:test';
import { addRates, bitsPerParameter, changedShare, NO_RATE, rateOf } from '../../../server/trainer/rate.js';

/** Two groups a byte, low nibble first. */
const pack = (nibbles: readonly number[]): Uint8Array =>
  Uint8Array.from(
    { length: nibbles.length / 2 },
    (_, i) => (nibbles[2 * i] as number) | ((nibbles[2 * i + 1] as number) << 4),
  );

test('an unchanged mask costs nothing', () => {
  const mask = pack([4, 8, 12, 9, 13, 14]);
  const rate = rateOf(mask, mask);
  assert.deepEqual(rate, { groups: 6, changed: 0, bits: 0 });
});

test('the bits are the conditional entropy given the parent’s pattern', () => {
  // of four groups that were 4 one became 8: H(1/4) = 0.8113 bits each; those that were 9 all became 9
  const rate = rateOf(pack([4, 4, 4, 4, 9, 9, 9, 9]), pack([4, 8, 4, 4, 9, 9, 9, 9]));
  const entropy = -(0.25 * Math.log2(0.25) + 0.75 * Math.log2(0.75));
  assert.equal(rate.changed, 1);
  assert.ok(Math.abs(rate.bits - 4 * entropy) < 1e-12);
  assert.equal(changedShare(rate), 1 / 8);
  assert.ok(Math.abs(bitsPerParameter(rate) - (4 * entropy) / 32) < 1e-12);
});

test('rates of matrices add up; nothing has none', () => {
  const rate = rateOf(pack([4, 8]), pack([4, 9]));
  assert.deepEqual(addRates(NO_RATE, rate), rate);
  assert.equal(addRates(rate, rate).groups, 4);
  assert.deepEqual([changedShare(NO_RATE), bitsPerParameter(NO_RATE)], [0, 0]);
});
