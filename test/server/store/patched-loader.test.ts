/** Patched and warm loads over the native kernels: the same products as a copy of the child's own gives, and nothing left allocated. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeMaskSet } from '../../../codec/encode.js';
import { native } from '../../../kernels/index.js';
import { linear } from '../../../server/engine/linear.js';
import type { TaskWeights } from '../../../server/engine/types.js';
import { frozenWeights } from '../../../server/store/frozen-weights.js';
import { NO_BUFFER } from '../../../kernels/types.js';
import { loaderFixture } from './loader-fixture.js';
import type { NativeModel } from './native-model.js';
import { refusal } from './registry-calls.js';
import { childOf, rootMember, type Member } from './sample-deltas.js';
import { randomFrom } from './sample-masks.js';

const TOKENS = 3;
/** More than any patch of these tests takes. */
const NO_LIMIT = 1 << 20;

const fixture = loaderFixture();
const general = rootMember(1);
const french = childOf(general, 2);

async function loadGeneral(): Promise<TaskWeights> {
  return fixture.loader.load('general', await fixture.fileOf(general.bytes));
}

/** What the task's patches give, and what a copy of its own gives, to rounding. */
function assertSameProducts(patched: TaskWeights, copy: TaskWeights): void {
  for (const matrix of fixture.model.maskable) {
    const [a, b] = [patched, copy].map((task) => products(matrix, task)) as [Float32Array, Float32Array];
    const norm = Math.hypot(...b);
    const error = Math.hypot(...a.map((value, i) => value - b[i]!));
    assert.ok(norm > 0 && error <= 1e-5 * norm, `${matrix.name}: ${error} of ${norm}`);
  }
}

function products({ name, rows, cols, weight }: NativeModel['maskable'][number], task: TaskWeights): Float32Array {
  const random = randomFrom(7);
  const [x, y] = [native.alloc(TOKENS * cols * 4), native.alloc(TOKENS * rows * 4)];
  native.write(
    x,
    0,
    Float32Array.from({ length: TOKENS * cols }, () => random() - 0.5),
  );
  linear(y, x, { name, rows, cols, weight, bias: NO_BUFFER }, TOKENS, task);
  const into = new Float32Array(TOKENS * rows);
  native.read(y, 0, into);
  for (const handle of [x, y]) native.free(handle);
  return into;
}

async function assertPatches(member: Member, bytes: Uint8Array): Promise<void> {
  const before = native.usage();
  const parent = await loadGeneral();
  const source = {
    path: await fixture.fileOf(bytes),
    ancestors: [{ content: general.content, path: await fixture.fileOf(general.bytes) }],
  };
  const owned = native.usage().bytes;
  const patched = await fixture.loader.patch('child', source, { content: general.content, weights: parent }, NO_LIMIT);
  assert.ok(patched?.patches);
  assert.equal(native.usage().bytes - owned, patched.bytes);
  assert.ok(patched.bytes < parent.bytes / 4, `${patched.bytes} of ${parent.bytes}`);
  assert.equal(patched.matrices, parent.matrices);
  const copy = await fixture.loader.load('child', await fixture.fileOf(member.flat));
  assertSameProducts(patched, copy);
  for (const weights of [copy, patched, parent]) fixture.loader.free(weights);
  assert.deepEqual(native.usage(), before);
}

test('a child in a container of its own is patched onto its parent', () => assertPatches(french, french.flat));

test('a child that is coded as a patch is patched onto its parent', () => assertPatches(french, french.bytes));

for (const coder of ['parent', 'parent+weights', 'patch+weights'] as const) {
  test(`a child that is coded by ${coder} is patched onto its parent`, async () => {
    const context = { parent: general.set, weights: frozenWeights(fixture.model.maskable) };
    await assertPatches(french, encodeMaskSet(french.set, { context, coder }));
  });
}

test('a grandchild is patched onto its grandparent', async () => {
  const grandchild = childOf(french, 3);
  const parent = await loadGeneral();
  const ancestors = [
    { content: french.content, path: await fixture.fileOf(french.bytes) },
    { content: general.content, path: await fixture.fileOf(general.bytes) },
  ];
  const source = { path: await fixture.fileOf(grandchild.bytes), ancestors };
  const patched = await fixture.loader.patch('child', source, { content: general.content, weights: parent }, NO_LIMIT);
  assert.ok(patched);
  const copy = await fixture.loader.load('child', source.path, ancestors);
  assertSameProducts(patched, copy);
  for (const weights of [copy, patched, parent]) fixture.loader.free(weights);
});

test('only what a patch changes is held, and a child without changes holds nothing', async () => {
  const { set } = general;
  const masks = set.masks.map((mask, i) =>
    i === 1 ? { ...mask, symbols: mask.symbols.map((symbol, at) => (at === 5 ? (symbol + 1) % 6 : symbol)) } : mask,
  );
  const context = { parent: set };
  const parent = await loadGeneral();
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
  const parent = await loadGeneral();
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
  const parent = await loadGeneral();
  const bytes = french.bytes.slice();
  bytes[bytes.length - 3]! ^= 1;
  const source = { path: await fixture.fileOf(bytes), ancestors: [] };
  const loading = fixture.loader.patch('child', source, { content: general.content, weights: parent }, NO_LIMIT);
  await assert.rejects(loading, refusal('mask_corrupt', /sha256:child/));
  fixture.loader.free(parent);
  assert.deepEqual(native.usage(), before);
});

test('nibbles taken out of a copy make the same copy again', async () => {
  const before = native.usage();
  const first = await loadGeneral();
  const decoded = await fixture.loader.extract(first);
  assert.equal(decoded.bytes * 9, first.bytes);
  const second = await fixture.loader.compact(decoded);
  assert.deepEqual([second.bytes, second.decodeMs], [first.bytes, 0]);
  for (const matrix of fixture.model.maskable) assert.deepEqual(products(matrix, second), products(matrix, first));
  fixture.loader.freeDecoded(decoded);
  for (const weights of [first, second]) fixture.loader.free(weights);
  assert.deepEqual(native.usage(), before);
});
