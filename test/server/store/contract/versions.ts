/** History: versions, rollback, republishing. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Digest } from '../../../../codec/mask-set.js';
import { bytesOf, NOBODY, publish, refusal } from '../registry-calls.js';
import type { OpenHarness } from '../registry-contract.js';
import { digestOf, sampleContainer } from '../sample-masks.js';

export function versions(start: OpenHarness): void {
  test('versions are kept newest first and each can be resolved by name@digest', async () => {
    const { registry } = await start();
    const digests: Digest[] = [];
    for (const seed of [1, 2, 3]) digests.unshift((await publish(registry, 'french', sampleContainer(seed))).digest);
    const record = await registry.get('french');
    assert.deepEqual(
      record.versions.map((version) => version.digest),
      digests,
    );
    for (const digest of digests) assert.equal((await registry.resolve('french', digest)).digest, digest);
    await publish(registry, 'german', sampleContainer(4));
    await assert.rejects(
      registry.resolve('french', digestOf(sampleContainer(4))),
      refusal('version_not_found', /"french"/),
    );
  });

  test('rollback goes to the version before, then to the one before that, and then there is none', async () => {
    const { registry } = await start();
    for (const seed of [1, 2, 3]) await publish(registry, 'french', sampleContainer(seed));
    assert.equal((await registry.rollback('french', {})).digest, digestOf(sampleContainer(2)));
    assert.equal((await registry.rollback('french', {})).digest, digestOf(sampleContainer(1)));
    await assert.rejects(registry.rollback('french', {}), refusal('version_not_found', /no earlier version/));
    const record = await registry.get('french');
    assert.deepEqual(
      record.versions.map((version) => version.digest),
      [3, 2, 1].map((seed) => digestOf(sampleContainer(seed))),
      'a rollback forgets nothing',
    );
    assert.deepEqual(await bytesOf(registry, record.digest), Buffer.from(sampleContainer(1)));
  });

  test('rollback to a named version, forward too', async () => {
    const { registry } = await start();
    for (const seed of [1, 2, 3]) await publish(registry, 'french', sampleContainer(seed));
    await registry.rollback('french', { to: digestOf(sampleContainer(1)) });
    await registry.rollback('french', { to: digestOf(sampleContainer(3)) });
    assert.equal((await registry.resolve('french')).digest, digestOf(sampleContainer(3)));
    await assert.rejects(registry.rollback('french', { to: NOBODY }), refusal('version_not_found'));
  });

  test('rollback after a rollback and a new version goes to what was served before, not to what was rolled back', async () => {
    const { registry } = await start();
    const [good, bad, worse] = [1, 2, 3].map((seed) => sampleContainer(seed));
    await publish(registry, 'french', good!);
    await publish(registry, 'french', bad!);
    await registry.rollback('french', {});
    await publish(registry, 'french', worse!);
    assert.equal((await registry.rollback('french', {})).digest, digestOf(good!));
  });

  test('publishing an older version again puts it on top, once', async () => {
    const { registry } = await start();
    for (const seed of [1, 2, 1]) await publish(registry, 'french', sampleContainer(seed));
    const { versions, digest } = await registry.get('french');
    assert.deepEqual(
      versions.map((version) => version.digest),
      [1, 2].map((seed) => digestOf(sampleContainer(seed))),
    );
    assert.equal(digest, digestOf(sampleContainer(1)));
  });
}
