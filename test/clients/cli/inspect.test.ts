import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { contentDigest } from '../../../codec/content-digest.js';
import { encodeMaskSet } from '../../../codec/encode.js';
import type { MaskSet } from '../../../codec/mask-set.js';
import { Random } from '../../../server/engine/random.js';
import { maskctl } from './maskctl.js';

const folder = mkdtempSync(join(tmpdir(), 'maskctl-inspect-'));
after(() => rmSync(folder, { recursive: true }));

const random = new Random(7);
const symbols = (groups: number): Uint8Array => Uint8Array.from({ length: groups }, () => random.uniform() * 6);
const set: MaskSet = {
  n: 2,
  m: 4,
  base: 'ab'.repeat(32),
  masks: [
    { name: 'model.layers.0.self_attn.q_proj.weight', rows: 128, cols: 1024, symbols: symbols(32_768) },
    { name: 'model.layers.0.mlp.up_proj.weight', rows: 256, cols: 1024, symbols: symbols(65_536) },
  ],
};
const bytes = encodeMaskSet(set);
const file = join(folder, 'french.mask');
writeFileSync(file, bytes);

test('--json gives the size, the digests and the bytes of every tensor', async () => {
  const { code, stdout, stderr } = await maskctl(['inspect', file, '--json']);
  assert.equal(stderr, '');
  assert.equal(code, 0);
  const inspected = JSON.parse(stdout) as Record<string, unknown> & {
    tensors: { name: string; rows: number; cols: number; bytes: number }[];
  };
  const parameters = 128 * 1024 + 256 * 1024;
  assert.equal(inspected['formatVersion'], 2);
  assert.equal(inspected['digest'], createHash('sha256').update(bytes).digest('hex'));
  assert.equal(inspected['contentDigest'], contentDigest(set));
  assert.equal(inspected['parent'], null);
  assert.equal(inspected['baseDigest'], set.base);
  assert.equal(inspected['coder'], 'uniform');
  assert.deepEqual(inspected['needs'], { parent: null, weights: false });
  assert.deepEqual(
    [inspected['decoded'], inspected['changedGroups'], inspected['groups']],
    [true, null, parameters / 4],
  );
  assert.equal(inspected['parameters'], parameters);
  assert.equal(inspected['bytes'], bytes.length);
  assert.equal(inspected['bitsPerParameter'], (8 * bytes.length) / parameters);
  assert.ok(Math.abs((inspected['payloadBitsPerParameter'] as number) - Math.log2(6) / 4) < 0.003);
  assert.deepEqual(
    inspected.tensors.map(({ name, rows, cols }) => ({ name, rows, cols })),
    set.masks.map(({ name, rows, cols }) => ({ name, rows, cols })),
  );
  const payload = inspected.tensors.reduce((sum, tensor) => sum + tensor.bytes, 0);
  assert.equal(payload, inspected['payloadBytes']);
});

test('a child names its parent', async () => {
  const child = join(folder, 'child.mask');
  writeFileSync(child, encodeMaskSet({ ...set, parent: contentDigest(set) }));
  const { stdout } = await maskctl(['inspect', child, '--json']);
  assert.equal((JSON.parse(stdout) as { parent: string }).parent, contentDigest(set));
});

test('people get the same as text', async () => {
  const { code, stdout } = await maskctl(['inspect', file]);
  assert.equal(code, 0);
  assert.match(stdout, /^format +version 2, 2:4, uniform$/m);
  assert.match(stdout, /^parent +none$/m);
  assert.match(stdout, /^model\.layers\.0\.mlp\.up_proj\.weight +256 +1024 +uniform +– +21,\d\d\d$/m);
});

test('a flipped bit in the last chunk is found, because everything is decoded', async () => {
  const damaged = join(folder, 'damaged.mask');
  const flipped = Uint8Array.from(bytes);
  flipped[flipped.length - 5]! ^= 1;
  writeFileSync(damaged, flipped);
  const { code, stdout, stderr } = await maskctl(['inspect', damaged, '--json']);
  assert.equal(code, 1);
  assert.equal(stdout, '');
  assert.match(stderr, /^maskctl: .*damaged\.mask: expected chunk 0 to have the checksum .*\n$/);
});

test('a file cut short, another kind of file, no file and a folder each get one line that says so', async () => {
  const cut = join(folder, 'cut.mask');
  writeFileSync(cut, readFileSync(file).subarray(0, 1000));
  const text = join(folder, 'notes.txt');
  writeFileSync(text, 'not a mask, but long enough to have been one, perhaps');
  const expected: [string, RegExp][] = [
    [cut, /cut\.mask: expected \d+ bytes, got 1000: it was cut off/],
    [text, /notes\.txt: expected a mask container/],
    [join(folder, 'nowhere.mask'), /expected a file at .*nowhere\.mask, but there is none/],
    [folder, /expected a file at .*maskctl-inspect-.*, but it is a directory/],
  ];
  for (const [path, message] of expected) {
    const { code, stdout, stderr } = await maskctl(['inspect', path]);
    assert.equal(code, 1, path);
    assert.equal(stdout, '');
    assert.match(stderr, message);
    assert.equal(stderr.split('\n').length, 2, stderr);
  }
});
