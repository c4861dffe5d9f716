/** Patched and warm loads over the native kernels: the same products as a copy of the child's own gives, and nothing left allocated. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeMaskSet } from '../../../codec/encode.js';
import { native } from '../../../kernels/index.js';
import { loaderFixture } from './loader-fixture.js';
import { assertSameProducts, french, general, loadGeneral, NO_LIMIT, patchingCases } from './patching-cases.js';
import { refusal } from './registry-calls.js';
import { childOf } from './sample-deltas.js';

const fixture = loaderFixture();

patchingCases(fixture);

test('a grandchild is patched onto its grandparent', async () => {
  const grandchild = childOf(french, 3);
  const parent = await loadGeneral(fixture);
  const ancestors = [
    { content: french.content, path: await fixture.fileOf(french.bytes) },
    { content: general.content, path: await fixture.fileOf(general.bytes) },
  ];
  const source = { path: await fixture.fileOf(grandchild.bytes), ancestors };
  const patched = await fixture.loader.patch('child', source, { content: general.content, weights: parent }, NO_LIMIT);
  assert.ok(patched);
  const copy = await fixture.loader.load('child', source.path, ancestors);
  assertSameProducts(fixture.model, patched, copy);
  for (const weights of [copy, patched, parent]) fixture.loader.free(weights);
});

test('only what a patch changes is held, and a child without changes holds nothing', async () => {
  const { set } = general;
  const masks = set.masks.map((mask, i) =>
    i === 1 ? { ...mask, symbols: mask.symbols.map((symbol, at) => (at === 5 ? (symbol + 1) % 6 : symbol)) } : mask,
  );
  const context = { parent: set };
  const parent = await loadGeneral(fixture);
  const patch = async (bytes: Uint8Array): Promise<string[]> => {
    const source = { path: await fixture.fileOf(bytes), ancestors: [] };
    const weights = await fixture.loader.patch(
      'child',
      source,
      { content: general.content, weights: parent },
      NO_LIMIT,
    );
    assert.ok(weights?.patches);
    fixture.loader.free(weights);
    return Object.keys(weights.patches);
  };
  const names = set.masks.map(({ name }) => name);
  assert.deepEqual(await patch(encodeMaskSet({ ...set, masks }, { context, coder: 'patch' })), [names[1]]);
  assert.deepEqual(await patch(encodeMaskSet(set, { context, coder: 'patch' })), []);
  fixture.loader.free(parent);
});

test('a child that would take more than it may, or covers other matrices, is left to a copy', async () => {
  const before = native.usage();
  const parent = await loadGeneral(fixture);
  const origin = { content: general.content, weights: parent };
  const source = { path: await fixture.fileOf(french.flat), ancestors: [] };
  assert.equal(await fixture.loader.patch('child', source, origin, 300), undefined);
  const part = encodeMaskSet({ ...french.set, masks: french.set.masks.slice(1) });
  assert.equal(
    await fixture.loader.patch('child', { path: await fixture.fileOf(part), ancestors: [] }, origin, NO_LIMIT),
    undefined,
  );
  fixture.loader.free(parent);
  assert.deepEqual(native.usage(), before);
});

test('a damaged child is refused and leaves nothing allocated', async () => {
  const before = native.usage();
  const parent = await loadGeneral(fixture);
  const bytes = french.bytes.slice();
  bytes[bytes.length - 3]! ^= 1;
  const source = { path: await fixture.fileOf(bytes), ancestors: [] };
  const loading = fixture.loader.patch('child', source, { content: general.content, weights: parent }, NO_LIMIT);
  await assert.rejects(loading, refusal('mask_corrupt', /sha256:child/));
  fixture.loader.free(parent);
  assert.deepEqual(native.usage(), before);
});
