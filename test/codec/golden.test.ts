import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { describe, it } from 'node:test';
import { checkContainer, decodeMaskSet } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import { GOLDEN, GOLDEN_FOLDER, readGolden } from './fixture-files.js';
import { simpleContext } from './random-sets.js';
import { simpleContentDigest } from './simple-content.js';
import { simpleDecode } from './simple-decoder.js';

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
  '2/1-4-best.mask': 'a4decc9cfa645bd16df5cdc4f103fb82abbe78e7dac7fb03985cbc756bdff9c9',
  '2/1-4-parent+weights.mask': '019d7149e9faf64ad3a59f6266c16b4a56331ecd9ed997b1e54238b917f539e5',
  '2/1-4-parent.mask': '1575cd0e1abe00595eab8b993d1307c449b474bbd75ecb8a3bf36c1f9d04f76b',
  '2/1-4-patch+weights.mask': 'f169e1119e687d20de7cc05ed72a4a1f52f74110e92cf8d7a3b6faba72fb7ac8',
  '2/1-4-patch.mask': 'a4decc9cfa645bd16df5cdc4f103fb82abbe78e7dac7fb03985cbc756bdff9c9',
  '2/1-4-scaled-weights.mask': '241de9bfde36112338ec82c90dcaafbbff0ef4669cabb5dbd5e5659ed4e52453',
  '2/1-4-static.mask': 'e996ad6ea28d5092c5b9f17a8f578a698c24491d1a32433c35b9123ad4996a62',
  '2/1-4-uniform-ac.mask': '68bec6e68399f4805044cbb56ddfb0634e71e816041bf4335128c36169d77928',
  '2/1-4-uniform.mask': '48fc0e8e528921d0b604f5cd1b480bc174adcbf60e09141fc7f5de7eee1ee0e9',
  '2/1-4-weights.mask': 'bed83f735bb44a4a24058babce5a1eae325d8efb8de23f073ec772579d455b48',
  '2/2-4-best.mask': 'f454a7e00082d15023aa5a27ec2c5b15b6e1bf707afd9d5a17c7c4fce3015542',
  '2/2-4-parent+weights.mask': '881709db8a457a7ed34223787ee2eccab241f567aa9b1ef9895b30d024f36284',
  '2/2-4-parent.mask': 'f454a7e00082d15023aa5a27ec2c5b15b6e1bf707afd9d5a17c7c4fce3015542',
  '2/2-4-patch+weights.mask': '341aed1469d98d3a05f60dfc23095e6a3ee16c073a7f5aeaa8595871904b00b3',
  '2/2-4-patch.mask': '303470e2b76b761879d8ecdd0b4c745ebfb3a8841c9ed26b4ec7f97731ac03c8',
  '2/2-4-scaled-weights.mask': '2f315284d0fc4b482f5733816270a56ecbb39f5d84a643cf97e1d3413116d2c2',
  '2/2-4-static.mask': '01376fc793571cc8d30f409116780be5ef56ba755ebe24c6ec86483116f11b3c',
  '2/2-4-uniform-ac.mask': '639f92ae4ee3b03407e30bebce35e751751cf01de9f3e3550141edf0d54f2559',
  '2/2-4-uniform.mask': '24d3c2ce115f06b1321309769827716d8a405c5e4b01a5ec94b2d0870c704c0f',
  '2/2-4-weights.mask': 'cc1ff9fe7b79ca69959002327fac33236021be144f5b197f61b07a4897cac68a',
  '2/4-8-best.mask': 'c8a02d3bf745e5aaf940d3efe869c887638e7ff7e9987c8abba031e3cd12ce02',
  '2/4-8-parent+weights.mask': '47e26f2293fba01c4e6aa79a86f679a8b5fb71ef4e245d1b65a9887690c0661f',
  '2/4-8-parent.mask': '555df702ae641328ecbeeb86d2cdf0096ef04553ed9ff02c1d1051c3681634d4',
  '2/4-8-patch+weights.mask': '55fdae9b942838baa050b6bf6b28d02e5647666879fae8a68cd191fcbf87d4cc',
  '2/4-8-patch.mask': 'c8a02d3bf745e5aaf940d3efe869c887638e7ff7e9987c8abba031e3cd12ce02',
  '2/4-8-scaled-weights.mask': '389be033d1f51ff0072a408badf711a97ee8d9e13196f11e9017a7b9fe316c0b',
  '2/4-8-static.mask': '4a1bd0b954b589055e661939aeca3446f92f260496b3b38c1cfc41e53c1abc6f',
  '2/4-8-uniform-ac.mask': '59fe307d4d154030401f219f8e4429a4606788c02c6d5de932917a4a33771f9b',
  '2/4-8-uniform.mask': 'b7649cd92c9c28f56d1839e7298c30dbc1a58e27a506735e99c6ea4113c95ff5',
  '2/4-8-weights.mask': '28f42a1232399af9265dcf4c766d7cf9e36c3ca06ba4a57610628242d0e596e5',
};

describe('golden containers', () => {
  it('are all here and unchanged', () => {
    const files = readdirSync(GOLDEN_FOLDER, { recursive: true }).map(String);
    const found = Object.fromEntries(
      files.filter((file) => file.endsWith('.mask')).map((file) => [file, sha256(readGolden(file))]),
    );
    assert.deepEqual(found, DIGESTS);
    assert.deepEqual(Object.keys(DIGESTS).sort(), GOLDEN.map(({ file }) => file).sort());
  });

  for (const { file, version, set, context, chunkLog2, coder } of GOLDEN) {
    it(`${file} decodes to its set${version === 1 ? '' : ', and its set encodes to it'}`, () => {
      const bytes = readGolden(file);
      assert.deepEqual(decodeMaskSet(bytes, { expectBase: set.base, context }), set);
      if (version === 1) return;
      const again = encodeMaskSet(set, { context, chunkLog2, ...(coder === undefined ? {} : { coder }) });
      assert.deepEqual(again, new Uint8Array(bytes));
    });

    it(`${file} is the same to the decoder written from FORMAT.md alone`, () => {
      const bytes = readGolden(file);
      const simple = simpleDecode(bytes, simpleContext(context));
      assert.equal(simpleContentDigest(simple), simple.content);
      assert.equal(checkContainer(bytes, { context }).content, simple.content);
      const { n, m, base, parent } = simple;
      const masks = simple.tensors.map((tensor) => ({ ...tensor, symbols: Uint8Array.from(tensor.symbols) }));
      assert.deepEqual({ n, m, base, ...(parent === undefined ? {} : { parent }), masks }, set);
    });
  }
});

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
