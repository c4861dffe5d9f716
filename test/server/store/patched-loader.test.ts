/** Patched and warm loads over the native kernels: the same products as a copy of the child's own gives, and nothing left allocated. */
import assert from 'node:assert/strict';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { encodeMaskSet } from '../../../codec/encode.js';
import { native } from '../../../kernels/index.js';
import { linear } from '../../../server/engine/linear.js';
import type { TaskWeights } from '../../../server/engine/types.js';
import { frozenWeights } from '../../../server/store/frozen-weights.js';
import { createLoader, type Loader } from '../../../server/store/loader.js';
import { NO_BUFFER } from '../../../kernels/types.js';
import { nativeModel, type NativeModel } from './native-model.js';
import { refusal } from './registry-calls.js';
import { childOf, rootMember, type Member } from './sample-deltas.js';
import { digestOf, randomFrom } from './sample-masks.js';
import { temporaryFolder } from './temporary-store.js';

const TOKENS = 3;
/** More than any patch of these tests takes. */
const NO_LIMIT = 1 << 20;

let folder = '';
let model: NativeModel;
let loader: Loader;
const general = rootMember(1);
const french = childOf(general, 2);

before(async () => {
  folder = await temporaryFolder();
  model = nativeModel();
  loader = createLoader(model);
});

after(async () => {
  await loader.close();
  model.dispose();
  await rm(folder, { recursive: true });
  assert.deepEqual(native.usage(), { buffers: 0, bytes: 0, mappedBytes: 0 });
});

async function fileOf(bytes: Uint8Array): Promise<string> {
  const path = join(folder, digestOf(bytes));
  await writeFile(path, bytes);
  return path;
}

async function loadGeneral(): Promise<TaskWeights> {
  return loader.load('general', await fileOf(general.bytes));
}

/** What the task's patches give, and what a copy of its own gives, to rounding. */
function assertSameProducts(patched: TaskWeights, copy: TaskWeights): void {
  for (const matrix of model.maskable) {
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
    path: await fileOf(bytes),
    ancestors: [{ content: general.content, path: await fileOf(general.bytes) }],
  };
  const owned = native.usage().bytes;
  const patched = await loader.patch('child', source, { content: general.content, weights: parent }, NO_LIMIT);
  assert.ok(patched?.patches);
  assert.equal(native.usage().bytes - owned, patched.bytes);
  assert.ok(patched.bytes < parent.bytes / 4, `${patched.bytes} of ${parent.bytes}`);
  assert.equal(patched.matrices, parent.matrices);
  const copy = await loader.load('child', await fileOf(member.flat));
  assertSameProducts(patched, copy);
  for (const weights of [copy, patched, parent]) loader.free(weights);
  assert.deepEqual(native.usage(), before);
}

test('a child in a container of its own is patched onto its parent', () => assertPatches(french, french.flat));

test('a child that is coded as a patch is patched onto its parent', () => assertPatches(french, french.bytes));

for (const coder of ['parent', 'parent+weights', 'patch+weights'] as const) {
  test(`a child that is coded by ${coder} is patched onto its parent`, async () => {
    const context = { parent: general.set, weights: frozenWeights(model.maskable) };
    await assertPatches(french, encodeMaskSet(french.set, { context, coder }));
  });
}

test('a grandchild is patched onto its grandparent', async () => {
  const grandchild = childOf(french, 3);
  const parent = await loadGeneral();
  const ancestors = [
    { content: french.content, path: await fileOf(french.bytes) },
    { content: general.content, path: await fileOf(general.bytes) },
  ];
  const source = { path: await fileOf(grandchild.bytes), ancestors };
  const patched = await loader.patch('child', source, { content: general.content, weights: parent }, NO_LIMIT);
  assert.ok(patched);
  const copy = await loader.load('child', source.path, ancestors);
  assertSameProducts(patched, copy);
  for (const weights of [copy, patched, parent]) loader.free(weights);
});

test('only what a patch changes is held, and a child without changes holds nothing', async () => {
  const { set } = general;
  const masks = set.masks.map((mask, i) =>
    i === 1 ? { ...mask, symbols: mask.symbols.map((symbol, at) => (at === 5 ? (symbol + 1) % 6 : symbol)) } : mask,
  );
  const context = { parent: set };
  const parent = await loadGeneral();
  const patch = async (bytes: Uint8Array): Promise<string[]> => {
    const source = { path: await fileOf(bytes), ancestors: [] };
    const weights = await loader.patch('child', source, { content: general.content, weights: parent }, NO_LIMIT);
    assert.ok(weights?.patches);
    loader.free(weights);
    return Object.keys(weights.patches);
  };
  const names = set.masks.map(({ name }) => name);
  assert.deepEqual(await patch(encodeMaskSet({ ...set, masks }, { context, coder: 'patch' })), [names[1]]);
  assert.deepEqual(await patch(encodeMaskSet(set, { context, coder: 'patch' })), []);
  loader.free(parent);
});

test('a child that would take more than it may, or covers other matrices, is left to a copy', async () => {
  const before = native.usage();
  const parent = await loadGeneral();
  const origin = { content: general.content, weights: parent };
  const source = { path: await fileOf(french.flat), ancestors: [] };
  assert.equal(await loader.patch('child', source, origin, 300), undefined);
  const part = encodeMaskSet({ ...french.set, masks: french.set.masks.slice(1) });
  assert.equal(await loader.patch('child', { path: await fileOf(part), ancestors: [] }, origin, NO_LIMIT), undefined);
  loader.free(parent);
  assert.deepEqual(native.usage(), before);
});

test('a damaged child is refused and leaves nothing allocated', async () => {
  const before = native.usage();
  const parent = await loadGeneral();
  const bytes = french.bytes.slice();
  bytes[bytes.length - 3]! ^= 1;
  const source = { path: await fileOf(bytes), ancestors: [] };
  const loading = loader.patch('child', source, { content: general.content, weights: parent }, NO_LIMIT);
  await assert.rejects(loading, refusal('mask_corrupt', /sha256:child/));
  loader.free(parent);
  assert.deepEqual(native.usage(), before);
});

test('nibbles taken out of a copy make the same copy again', async () => {
  const before = native.usage();
  const first = await loadGeneral();
  const decoded = await loader.extract(first);
  assert.equal(decoded.bytes * 9, first.bytes);
  const second = await loader.compact(decoded);
  assert.deepEqual([second.bytes, second.decodeMs], [first.bytes, 0]);
  for (const matrix of model.maskable) assert.deepEqual(products(matrix, second), products(matrix, first));
  loader.freeDecoded(decoded);
  for (const weights of [first, second]) loader.free(weights);
  assert.deepEqual(native.usage(), before);
});
