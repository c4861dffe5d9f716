/** Removal, and who still needs the containers. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bytesOf, publish, refusal } from '../registry-calls.js';
import type { OpenHarness } from '../registry-contract.js';
import { digestOf, sampleContainer } from '../sample-masks.js';

export function removal(start: OpenHarness): void {
  test('a removed task is gone with its versions and their containers', async () => {
    const { registry, leftovers } = await start();
    for (const seed of [1, 2]) await publish(registry, 'french', sampleContainer(seed));
    await registry.remove('french', {});
    await assert.rejects(registry.resolve('french'), refusal('task_not_found'));
    await assert.rejects(registry.read(digestOf(sampleContainer(1))), refusal('version_not_found'));
    assert.deepEqual(await leftovers(), []);
  });

  test('a container that another task names outlives a removal', async () => {
    const { registry } = await start();
    const { digest } = await publish(registry, 'french', sampleContainer(1));
    await publish(registry, 'francais', sampleContainer(1));
    await registry.remove('french', {});
    assert.deepEqual(await bytesOf(registry, digest), Buffer.from(sampleContainer(1)));
  });

  test('a download that has begun is not cut by a removal', async () => {
    const { registry } = await start();
    const { digest } = await publish(registry, 'french', sampleContainer(1));
    const { stream } = await registry.read(digest);
    await registry.remove('french', {});
    assert.deepEqual(Buffer.concat((await stream.toArray()) as Buffer[]), Buffer.from(sampleContainer(1)));
  });

  test('publishing and removing the same container under two names at once loses neither', async () => {
    const { registry } = await start();
    const bytes = sampleContainer(1);
    await publish(registry, 'a', bytes);
    for (let round = 0; round < 20; round++) {
      const [add, remove] = round % 2 === 0 ? ['b', 'a'] : ['a', 'b'];
      await Promise.all([publish(registry, add!, bytes), registry.remove(remove!, {})]);
      assert.deepEqual(await bytesOf(registry, digestOf(bytes)), Buffer.from(bytes));
    }
  });
}
