/** What a publish gives, and who hears of it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { RegistryEvent } from '../../../../server/store/types.js';
import { bytesOf, MAX_BYTES, NOBODY, publish, streamOf } from '../registry-calls.js';
import type { OpenHarness } from '../registry-contract.js';
import { digestOf, MATRICES, sampleContainer } from '../sample-masks.js';

export function publishing(start: OpenHarness): void {
  test('a published mask is listed, resolved, described and read back byte for byte', async () => {
    const { registry } = await start();
    const bytes = sampleContainer(1, { parent: NOBODY });
    const { record, created } = await registry.publish('french', streamOf(bytes), { maxBytes: MAX_BYTES });
    const digest = digestOf(bytes);
    assert.equal(created, true);
    assert.deepEqual(await registry.list(), [record]);
    assert.deepEqual(await registry.get('french'), record);
    const { content, ...blob } = await registry.resolve('french');
    assert.match(content, /^[0-9a-f]{64}$/);
    assert.deepEqual(blob, {
      digest,
      bytes: bytes.length,
      base: 'ba5e'.repeat(16),
      parent: NOBODY,
      needs: { parent: undefined, weights: false },
      n: 2,
      m: 4,
      parameters: MATRICES.reduce((sum, { rows, cols }) => sum + rows * cols, 0),
    });
    assert.deepEqual(
      record.versions.map((version) => version.digest),
      [digest],
    );
    assert.equal(record.shipped, false);
    assert.deepEqual(await bytesOf(registry, digest), Buffer.from(bytes));
  });

  test('a range of a container is read with its last byte included', async () => {
    const { registry } = await start();
    const bytes = sampleContainer(1);
    const { digest } = await publish(registry, 'french', bytes);
    const { bytes: whole, stream } = await registry.read(digest, { start: 10, end: 19 });
    assert.equal(whole, bytes.length);
    assert.deepEqual(Buffer.concat((await stream.toArray()) as Buffer[]), Buffer.from(bytes.subarray(10, 20)));
  });

  test('a mask may cover some of the matrices only', async () => {
    const { registry } = await start();
    await publish(registry, 'part', sampleContainer(1, { matrices: MATRICES.slice(1, 2) }));
    assert.equal((await registry.resolve('part')).parameters, 64 * 32);
  });

  test('publishing what a task already serves changes nothing', async () => {
    const { registry } = await start();
    const bytes = sampleContainer(1);
    await publish(registry, 'french', bytes);
    const before = await registry.get('french');
    assert.equal((await publish(registry, 'french', bytes)).created, false);
    assert.deepEqual(await registry.get('french'), before);
  });

  test('listeners hear of every change until they unsubscribe', async () => {
    const { registry } = await start({ general: sampleContainer(9) });
    const events: RegistryEvent[] = [];
    const stop = registry.onChange((event) => events.push(event));
    const first = await publish(registry, 'general', sampleContainer(1));
    const second = await publish(registry, 'general', sampleContainer(2));
    await registry.rollback('general', {});
    await registry.remove('general', {});
    const published = await publish(registry, 'french', sampleContainer(3));
    await registry.remove('french', {});
    stop();
    await publish(registry, 'french', sampleContainer(4));
    assert.deepEqual(events, [
      { task: 'general', digest: first.digest },
      { task: 'general', digest: second.digest },
      { task: 'general', digest: first.digest },
      { task: 'general', digest: digestOf(sampleContainer(9)) },
      { task: 'french', digest: published.digest },
      { task: 'french', digest: undefined },
    ]);
  });
}
