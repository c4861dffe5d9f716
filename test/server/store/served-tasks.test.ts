/** Registry, cache and native kernels together: what a request for a task goes through before its first token. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeMaskSet } from '../../../codec/decode.js';
import { native } from '../../../kernels/index.js';
import { createResidency } from '../../../server/store/residency.js';
import type { Lease } from '../../../server/store/types.js';
import { compactedBytes, nativeModel, readPacked } from './native-model.js';
import { publish, refusal } from './registry-calls.js';
import { digestOf, MATRICES, randomFrom, sampleContainer } from './sample-masks.js';
import { openTemporaryStore } from './temporary-store.js';

test('tasks published, loaded, evicted and overridden under random load give the right weights and leak nothing', async () => {
  const start = native.usage();
  const model = nativeModel();
  const store = await openTemporaryStore({ general: sampleContainer(0) }, { model });
  const { registry } = store;
  const seeds = [1, 2, 3, 4, 5, 6];
  for (const seed of seeds) await publish(registry, `t${seed}`, sampleContainer(seed));
  const cost = createResidency({ budgetBytes: 2 ** 30, model, registry }).costBytes();
  const residency = createResidency({ budgetBytes: 3 * cost, model, registry });
  const random = randomFrom(3);
  const leases: Lease[] = [];
  for (let i = 0; i < 300; i++) {
    const seed = seeds[Math.floor(random() * seeds.length)]!;
    if (i % 50 === 49) await publish(registry, `t${seed}`, sampleContainer(100 + i));
    const { digest } = await registry.resolve(`t${seed}`);
    const lease = await residency.acquire(digest);
    assert.equal(lease.weights.digest, digest);
    leases.push(lease);
    // Two leases at most, so that there is always room for a third.
    if (leases.length > 2) leases.splice(Math.floor(random() * 3), 1)[0]?.release();
    residency.checkIntegrity();
  }
  const { stream } = await registry.read(leases[0]!.weights.digest);
  const container = Buffer.concat((await stream.toArray()) as Buffer[]);
  for (const { name, symbols } of decodeMaskSet(container).masks) {
    assert.deepEqual(readPacked(leases[0]!.weights.matrices[name]!), compactedBytes(model, name, symbols));
  }
  for (const lease of leases) lease.release();
  assert.ok(residency.stats().evictions > 10);
  assert.equal(
    native.usage().bytes - start.bytes,
    residency.stats().residentBytes + MATRICES.reduce((sum, { rows, cols }) => sum + rows * cols * 2, 0),
  );
  await residency.close();
  await store.destroy();
  model.dispose();
  assert.deepEqual(native.usage(), start);
});

test('a shipped mask is loaded from where it lies; a damaged one answers for its task alone', async () => {
  const model = nativeModel();
  const store = await openTemporaryStore({ general: sampleContainer(0) }, { model });
  const { digest } = await publish(store.registry, 'french', sampleContainer(1));
  await store.damage(digest);
  const registry = await store.reopen();
  const residency = createResidency({ budgetBytes: 2 ** 30, model, registry });
  await assert.rejects(residency.acquire(digest), refusal('mask_corrupt'));
  const lease = await residency.acquire(digestOf(sampleContainer(0)));
  lease.release();
  await residency.close();
  await store.destroy();
  model.dispose();
});

test('a request that resolved a task just before it was removed still loads it', async () => {
  const model = nativeModel();
  const store = await openTemporaryStore({}, { model, graceMs: 10_000 });
  await publish(store.registry, 'french', sampleContainer(1));
  const { digest } = await store.registry.resolve('french');
  await store.registry.remove('french', {});
  const residency = createResidency({ budgetBytes: 2 ** 30, model, registry: store.registry });
  (await residency.acquire(digest)).release();
  await residency.close();
  await store.destroy();
  model.dispose();
});
