/** Masks shipped with the model, below what is published. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bytesOf, NOBODY, publish, refusal } from '../registry-calls.js';
import type { OpenHarness } from '../registry-contract.js';
import { digestOf, sampleContainer } from '../sample-masks.js';

export function shippedMasks(start: OpenHarness): void {
  const shipped = { general: sampleContainer(9) };
  const shippedDigest = digestOf(shipped.general);

  test('a shipped mask is a task from the start, and read-only', async () => {
    const { registry } = await start(shipped);
    const record = await registry.get('general');
    assert.equal(record.shipped, true);
    assert.equal(record.digest, shippedDigest);
    assert.deepEqual(await bytesOf(registry, shippedDigest), Buffer.from(shipped.general));
    await assert.rejects(registry.remove('general', {}), refusal('read_only_task', /"general"/));
    await assert.rejects(registry.rollback('general', {}), refusal('version_not_found'));
    assert.equal((await registry.list()).length, 1);
  });

  test('publishing under its name overrides it, removing that brings it back', async () => {
    const { registry } = await start(shipped);
    assert.equal((await publish(registry, 'general', sampleContainer(1))).created, false);
    const overridden = await registry.get('general');
    assert.equal(overridden.shipped, false);
    assert.deepEqual(
      overridden.versions.map((version) => version.digest),
      [digestOf(sampleContainer(1)), shippedDigest],
    );
    assert.equal((await registry.resolve('general', shippedDigest)).digest, shippedDigest);
    await registry.remove('general', {});
    assert.equal((await registry.get('general')).shipped, true);
    assert.deepEqual(await bytesOf(registry, shippedDigest), Buffer.from(shipped.general));
  });

  test('the first version published over it rolls back to it, and that lasts', async () => {
    const { registry, reopen } = await start(shipped);
    await publish(registry, 'general', sampleContainer(1));
    assert.equal((await registry.rollback('general', {})).digest, shippedDigest);
    await assert.rejects(registry.rollback('general', {}), refusal('version_not_found'));
    const again = await reopen();
    assert.equal((await again.resolve('general')).digest, shippedDigest);
    assert.deepEqual(await bytesOf(again, shippedDigest), Buffer.from(shipped.general));
    await again.rollback('general', { to: digestOf(sampleContainer(1)) });
  });

  test('a shipped mask that is damaged, for another base or misnamed is left out; the others are served', async () => {
    const damaged = sampleContainer(1).slice();
    damaged[damaged.length - 5]! ^= 1;
    const { registry } = await start({
      ...shipped,
      french: damaged,
      german: sampleContainer(2, { base: NOBODY }),
      dense: sampleContainer(3),
      Upper: sampleContainer(4),
    });
    assert.deepEqual(
      (await registry.list()).map(({ task }) => task),
      ['general'],
    );
    await publish(registry, 'french', sampleContainer(5));
  });
}
