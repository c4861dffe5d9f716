import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { crc32c } from '../../codec/crc32c.js';
import { randomSymbols } from './random-sets.js';

describe('crc32c', () => {
  it('gives the vectors of RFC 3720 §B.4', () => {
    assert.equal(crc32c(new TextEncoder().encode('123456789')), 0xe3069283);
    assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa);
    assert.equal(crc32c(new Uint8Array(32).fill(255)), 0x62a8ab43);
    assert.equal(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i)), 0x46dd794e);
    assert.equal(crc32c(new Uint8Array(0)), 0);
  });

  it('equals the definition, a bit at a time, for every length up to 100', () => {
    for (let length = 0; length < 100; length++) {
      const bytes = randomSymbols(length, length, 256);
      assert.equal(crc32c(bytes), byDefinition(bytes));
    }
  });

  it('goes on from the bytes before', () => {
    const bytes = randomSymbols(1, 100, 256);
    for (const cut of [0, 1, 7, 8, 50, 100]) {
      assert.equal(crc32c(bytes.subarray(cut), crc32c(bytes.subarray(0, cut))), crc32c(bytes));
    }
  });
});

function byDefinition(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return ~crc >>> 0;
}
