/** What outlives a restart, and what is found damaged. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bytesOf, publish, refusal } from '../registry-calls.js';
import type { OpenHarness } from '../registry-contract.js';
import { digestOf, sampleContainer } from '../sample-masks.js';

export function durability(start: OpenHarness): void {
  test('everything is as it was after reopening', async () => {
    const { registry, reopen } = await start({ general: sampleContainer(9) });
    for (const seed of [1, 2, 3]) await publish(registry, 'french', sampleContainer(seed));
    await registry.rollback('french', {});
    await publish(registry, 'gone', sampleContainer(4));
    await publish(registry, 'general', sampleContainer(5));
    await registry.remove('gone', {});
    const before = await registry.list();
    const again = await reopen();
    assert.deepEqual(await again.list(), before);
    for (const { digest } of before.flatMap(({ versions }) => versions)) {
      assert.equal(digestOf(await bytesOf(again, digest)), digest);
    }
    assert.equal((await again.rollback('french', {})).digest, digestOf(sampleContainer(1)));
  });

  test('a damaged container is never served; publishing it again heals it, other tasks go on', async () => {
    const { registry, reopen, damage } = await start();
    const { digest } = await publish(registry, 'french', sampleContainer(1));
    await publish(registry, 'german', sampleContainer(2));
    await damage(digest);
    let again = await reopen();
    await assert.rejects(again.path(digest), refusal('mask_corrupt', /publish it again/));
    await assert.rejects(again.read(digest), refusal('mask_corrupt'));
    await assert.rejects(again.resolve('french'), refusal('mask_corrupt'));
    assert.match(again.quarantined().get(digest) ?? '', /sha256/);
    assert.equal((await again.resolve('german')).digest, digestOf(sampleContainer(2)));

    again = await reopen();
    await assert.rejects(again.resolve('french'), refusal('mask_corrupt', /sha256/), 'the reason outlives a restart');
    await publish(again, 'french', sampleContainer(1));
    assert.deepEqual(await bytesOf(again, digest), Buffer.from(sampleContainer(1)));
    assert.equal(again.quarantined().size, 0);
  });

  test('a task is not rolled back onto a damaged version', async () => {
    const { registry, reopen, damage } = await start();
    const { digest } = await publish(registry, 'french', sampleContainer(1));
    const current = await publish(registry, 'french', sampleContainer(2));
    await damage(digest);
    const again = await reopen();
    await assert.rejects(again.rollback('french', {}), refusal('mask_corrupt'));
    assert.equal((await again.resolve('french')).digest, current.digest);
  });

  test('a closed registry takes no changes', async () => {
    const { registry } = await start();
    await registry.close();
    await assert.rejects(publish(registry, 'french', sampleContainer(1)), refusal('shutting_down'));
    await assert.rejects(registry.remove('french', {}), refusal('shutting_down'));
  });
}
