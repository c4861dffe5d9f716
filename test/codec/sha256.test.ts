import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { PortableSha256 } from '../../codec/sha256.js';

describe('sha256 without Node', () => {
  it('is that of FIPS 180-4 for "abc"', () => {
    const digest = new PortableSha256().update(new TextEncoder().encode('abc')).digest();
    assert.equal(
      Buffer.from(digest).toString('hex'),
      'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
    );
  });

  it('is Node’s for any bytes in any parts', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 5 }), (parts) => {
        const [own, node] = [new PortableSha256(), createHash('sha256')];
        for (const part of parts) {
          own.update(part);
          node.update(part);
        }
        assert.deepEqual(own.digest(), new Uint8Array(node.digest()));
      }),
      { seed: 1, numRuns: 200 },
    );
  });
});
