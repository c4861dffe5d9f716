import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { describe, it } from 'node:test';
import { checkContainer, decodeMaskSet } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import { GOLDEN, GOLDEN_FOLDER, readGolden } from './fixture-files.js';
import { simpleContentDigest, simpleDecode } from './simple-decoder.js';

/** sha256 of each file: a golden file never changes. */
const DIGESTS: Readonly<Record<string, string>> = {
  '1-4-with-parent.mask': '25116feb67943629d7f4a1d2cc696d3e2cc33953b8b744b162ddb059a137bdeb',
  '1-4.mask': 'a32ea5899f9b4760d4b538899d91aa248705a0df635c76b2e8db4db09363a8d6',
  '2-4-constant.mask': 'b0c8e4f3a72749783eb6bf8942c4eba6c7cd20448519d209fd71e021fd314339',
  '2-4-odd-groups.mask': '17d8f1698cb117458be387eb3eff97a523ae658bce6cb74d42212f32863e7f68',
  '2-4-two-default-chunks.mask': 'a676d083125e23dfa59b3d1a12327594b2612f8b6f2d70c1204071aafc2e1d12',
  '2-4-with-parent.mask': '5573ecf5aa64f1187835821a573b3526414884d924079ef096e30b44460b051a',
  '2-4.mask': '3d63fe5959ea16a8561e9379cdb879ed584d58dfd3c23d4cb2662912298a176d',
  '4-8-with-parent.mask': '7dcb6d77f2a67032006ff84b2c20e260ce9a9eb6a451280e3c93f180441c0f15',
  '4-8.mask': 'dd33d098c4f70c61f97fb3cda5337a5601c9c754d5857f16ec47d636d4a7456c',
};

describe('golden containers', () => {
  it('are all here and unchanged', () => {
    const found = Object.fromEntries(readdirSync(GOLDEN_FOLDER).map((file) => [file, sha256(readGolden(file))]));
    assert.deepEqual(found, DIGESTS);
    assert.deepEqual(Object.keys(DIGESTS).sort(), GOLDEN.map(({ file }) => file).sort());
  });

  for (const { file, set, chunkLog2 } of GOLDEN) {
    it(`${file} decodes to its set, and its set encodes to it`, () => {
      const bytes = readGolden(file);
      assert.deepEqual(decodeMaskSet(bytes, { expectBase: set.base }), set);
      assert.deepEqual(encodeMaskSet(set, { chunkLog2 }), new Uint8Array(bytes));
    });

    it(`${file} is the same to the decoder written from FORMAT.md alone`, () => {
      const bytes = readGolden(file);
      const simple = simpleDecode(bytes);
      assert.equal(simpleContentDigest(simple), simple.content);
      assert.equal(checkContainer(bytes).content, simple.content);
      const { n, m, base, parent } = simple;
      const masks = simple.tensors.map((tensor) => ({ ...tensor, symbols: Uint8Array.from(tensor.symbols) }));
      assert.deepEqual({ n, m, base, ...(parent === undefined ? {} : { parent }), masks }, set);
    });
  }
});

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
