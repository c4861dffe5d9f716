import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { decodeMaskSet } from '../../../codec/decode.js';
import { native } from '../../../kernels/index.js';
import { copyBytes, createLoader } from '../../../server/store/loader.js';
import { compactionCases } from './compaction-cases.js';
import { loaderFixture } from './loader-fixture.js';
import { compactedBytes, nativeModel, readPacked } from './native-model.js';
import { refusal } from './registry-calls.js';
import { MATRICES, sampleContainer } from './sample-masks.js';

const fixture = loaderFixture();

test('a loaded task holds exactly the kept weights of the dense matrices, in 9/16 of their bytes', async () => {
  const before = native.usage();
  const bytes = sampleContainer(1);
  const weights = await fixture.loader.load('d', await fixture.fileOf(bytes));
  assert.deepEqual(
    Object.keys(weights.matrices),
    MATRICES.map(({ name }) => name),
  );
  for (const { name, symbols } of decodeMaskSet(bytes).masks) {
    const expected = compactedBytes(fixture.model, name, symbols);
    assert.deepEqual(readPacked(weights.matrices[name]!), expected, name);
  }
  const denseBytes = MATRICES.reduce((sum, { rows, cols }) => sum + rows * cols * 2, 0);
  assert.equal(weights.bytes, (denseBytes * 9) / 16);
  assert.equal(native.usage().bytes - before.bytes, weights.bytes);
  fixture.loader.free(weights);
  assert.deepEqual(native.usage(), before);
});

test('matrices that a container does not cover are left to the dense weights', async () => {
  const weights = await fixture.loader.load(
    'd',
    await fixture.fileOf(sampleContainer(1, { matrices: MATRICES.slice(1, 2) })),
  );
  assert.deepEqual(Object.keys(weights.matrices), [MATRICES[1]!.name]);
  fixture.loader.free(weights);
});

test('a container that turns out damaged at its end is refused and leaves nothing allocated', async () => {
  const before = native.usage();
  const bytes = sampleContainer(1).slice();
  bytes[bytes.length - 3]! ^= 1;
  await assert.rejects(
    fixture.loader.load('d', await fixture.fileOf(bytes)),
    refusal('mask_corrupt', /sha256:d .*publish it again/),
  );
  const misshapen = sampleContainer(1, { matrices: [MATRICES[0]!, { ...MATRICES[1]!, rows: 8 }] });
  await assert.rejects(fixture.loader.load('d', await fixture.fileOf(misshapen)), refusal('mask_corrupt'));
  assert.deepEqual(native.usage(), before);
});

test('a file that is gone is an error that names it, and the next load works', async () => {
  const before = native.usage();
  await assert.rejects(fixture.loader.load('d', join(fixture.folder, 'none')), /ENOENT.*none/);
  fixture.loader.free(await fixture.loader.load('d', await fixture.fileOf(sampleContainer(1))));
  assert.deepEqual(native.usage(), before);
});

test('this thread goes on while a task is loaded', async () => {
  const big = nativeModel([{ name: 'big', rows: 2048, cols: 2048 }]);
  const bigLoader = createLoader(big);
  const path = await fixture.fileOf(sampleContainer(1, { matrices: [{ name: 'big', rows: 2048, cols: 2048 }] }));
  let turns = 0;
  let loading = true;
  const turn = (): void => {
    turns++;
    if (loading) setImmediate(turn);
  };
  setImmediate(turn);
  const weights = await bigLoader.load('d', path);
  loading = false;
  assert.ok(turns > 100, `the event loop made only ${turns} turns`);
  bigLoader.free(weights);
  await bigLoader.close();
  big.dispose();
});

test('closing gives up loads in flight and leaves nothing allocated', async () => {
  const shapes = Array.from({ length: 64 }, (_, i) => ({ name: `m${i}`, rows: 256, cols: 256 }));
  const many = nativeModel(shapes);
  const path = await fixture.fileOf(sampleContainer(1, { matrices: shapes }));
  for (const delayMs of [0, 1, 5, 20, 60]) {
    const before = native.usage();
    const closing = createLoader(many);
    const loads = Promise.allSettled([closing.load('a', path), closing.load('b', path), closing.load('c', path)]);
    await new Promise((resolve) => setTimeout(resolve, delayMs));
    await closing.close();
    for (const outcome of await loads) {
      if (outcome.status === 'fulfilled') closing.free(outcome.value);
      else refusal('shutting_down')(outcome.reason);
    }
    assert.deepEqual(native.usage(), before);
  }
  many.dispose();
});

compactionCases(fixture);

test('the memory of a copy that is freed is used for the next one, within the budget', async () => {
  const { model } = fixture;
  const cost = copyBytes(model);
  const [one, two] = [await fixture.fileOf(sampleContainer(1)), await fixture.fileOf(sampleContainer(2))];
  const before = native.usage();
  const loader = createLoader(model, { budgetBytes: 2 * cost });
  const first = await loader.load('one', one);
  loader.free(first);
  assert.equal(native.usage().bytes - before.bytes, cost, 'kept');
  const second = await loader.load('two', two);
  assert.deepEqual(second.matrices, first.matrices, 'the same buffers');
  for (const { name, symbols } of decodeMaskSet(sampleContainer(2)).masks) {
    assert.deepEqual(readPacked(second.matrices[name]!), compactedBytes(model, name, symbols), name);
  }
  const third = await loader.load('one', one);
  assert.equal(native.usage().bytes - before.bytes, 2 * cost);
  loader.free(second);
  const fourth = await loader.load('two', two);
  assert.equal(native.usage().bytes - before.bytes, 2 * cost, 'the budget holds');
  loader.free(third);
  const damaged = sampleContainer(1).slice();
  damaged[damaged.length - 3]! ^= 1;
  await assert.rejects(loader.load('bad', await fixture.fileOf(damaged)), refusal('mask_corrupt'));
  assert.equal(native.usage().bytes - before.bytes, cost, 'a load that fails gives its memory back');
  await loader.close();
  loader.free(fourth);
  assert.deepEqual(native.usage(), before);
});

test('the memory of a copy of other matrices is given back before the next one takes its own', async () => {
  const { model } = fixture;
  const part = await fixture.fileOf(sampleContainer(1, { matrices: MATRICES.slice(1, 2) }));
  const before = native.usage();
  const loader = createLoader(model, { budgetBytes: 4 * copyBytes(model) });
  loader.free(await loader.load('whole', await fixture.fileOf(sampleContainer(1))));
  const smaller = await loader.load('part', part);
  assert.equal(native.usage().bytes - before.bytes, smaller.bytes);
  const set = decodeMaskSet(sampleContainer(1, { matrices: MATRICES.slice(1, 2) }));
  assert.deepEqual(
    readPacked(smaller.matrices[MATRICES[1]!.name]!),
    compactedBytes(model, MATRICES[1]!.name, set.masks[0]!.symbols),
  );
  loader.free(smaller);
  await loader.close();
  assert.deepEqual(native.usage(), before);
});

test('a copy is one piece of memory, which lives until its last matrix is freed', async () => {
  const before = native.usage();
  const { matrices, bytes } = await fixture.loader.load('d', await fixture.fileOf(sampleContainer(1)));
  const [first, ...others] = Object.values(matrices);
  const held = readPacked(first!);
  for (const { packed } of others) native.free(packed);
  assert.equal(native.usage().bytes - before.bytes, bytes);
  assert.deepEqual(readPacked(first!), held);
  native.free(first!.packed);
  assert.deepEqual(native.usage(), before);
});
