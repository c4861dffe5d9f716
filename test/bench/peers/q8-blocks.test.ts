import assert from 'node:assert/strict';
import { test } from 'node:test';
import { q8Blocks } from './q8-blocks.js';

test('a block is its scale in fp16 and 32 signed bytes, the largest ±127', () => {
  const weights = Float32Array.from({ length: 32 }, (_, i) => (i - 16) / 16);
  const bytes = Buffer.from(q8Blocks(weights));
  assert.equal(bytes.length, 34);
  assert.equal(bytes.readUInt16LE(0), 0x2008); // 1/127 = 2⁻⁷ · 1.00787, of which 1.0078125 = 1 + 8/1024 is nearest
  assert.equal(bytes.readInt8(2), -127);
  assert.equal(bytes.readInt8(2 + 16), 0);
  assert.equal(bytes.readInt8(2 + 31), 119); // 15/16 · 127 = 119.06
});

test('scales below the smallest normal fp16 are subnormal, and a block of zeros has none', () => {
  const tiny = Buffer.from(q8Blocks(new Float32Array(32).fill(127 * 2 ** -20)));
  assert.equal(tiny.readUInt16LE(0), 16); // 2⁻²⁰ = 16 · 2⁻²⁴
  assert.equal(tiny.readInt8(2), 127);
  assert.ok(Buffer.from(q8Blocks(new Float32Array(32))).every((byte) => byte === 0));
});

test('what is not whole blocks is refused', () => {
  assert.throws(() => q8Blocks(new Float32Array(33)), /whole blocks of 32 but received 33/);
});
