/** Compare-and-set: of two who saw the same state one is refused. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { NOBODY, publish, refusal } from '../registry-calls.js';
import type { OpenHarness } from '../registry-contract.js';
import { digestOf, sampleContainer } from '../sample-masks.js';

export function preconditions(start: OpenHarness): void {
  test('a publish that expects another digest is refused with both digests', async () => {
    const { registry } = await start();
    const { digest } = await publish(registry, 'french', sampleContainer(1));
    const late = publish(registry, 'french', sampleContainer(2), { match: NOBODY });
    await assert.rejects(late, refusal('precondition_failed', new RegExp(`${NOBODY}.*${digest}`)));
    assert.equal((await registry.resolve('french')).digest, digest);
    await publish(registry, 'french', sampleContainer(2), { match: digest });
    assert.equal((await registry.resolve('french')).digest, digestOf(sampleContainer(2)));
  });

  test('a publish that expects no task is refused if there is one, also a shipped one', async () => {
    const { registry } = await start({ general: sampleContainer(9) });
    const absent = { absent: true } as const;
    await publish(registry, 'french', sampleContainer(1), absent);
    await assert.rejects(publish(registry, 'french', sampleContainer(2), absent), refusal('precondition_failed'));
    await assert.rejects(publish(registry, 'general', sampleContainer(2), absent), refusal('precondition_failed'));
    await publish(registry, 'general', sampleContainer(2), { match: digestOf(sampleContainer(9)) });
  });

  test('a publish that expects a digest is refused if there is no such task', async () => {
    const { registry } = await start();
    const publishing = publish(registry, 'french', sampleContainer(1), { match: NOBODY });
    await assert.rejects(publishing, refusal('precondition_failed', /no such task/));
  });

  test('of many publishes at once that expect the same digest exactly one wins', async () => {
    const { registry } = await start();
    const { digest } = await publish(registry, 'french', sampleContainer(0));
    const seeds = [1, 2, 3, 4, 5, 6, 7, 8];
    const outcomes = await Promise.allSettled(
      seeds.map((seed) => publish(registry, 'french', sampleContainer(seed), { match: digest })),
    );
    const won = outcomes.filter((outcome) => outcome.status === 'fulfilled');
    const lost = outcomes.filter((outcome) => outcome.status === 'rejected');
    assert.equal(won.length, 1);
    for (const { reason } of lost) refusal('precondition_failed')(reason);
    const record = await registry.get('french');
    assert.deepEqual(
      record.versions.map((version) => version.digest),
      [won[0]?.value.digest, digest],
    );
  });

  test('of many publishes at once that expect no task exactly one wins', async () => {
    const { registry } = await start();
    const outcomes = await Promise.allSettled(
      [1, 2, 3, 4, 5].map((seed) => publish(registry, 'new', sampleContainer(seed), { absent: true })),
    );
    assert.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 1);
    assert.equal((await registry.get('new')).versions.length, 1);
  });

  test('publishes at once without a precondition all become versions', async () => {
    const { registry } = await start();
    const seeds = [1, 2, 3, 4, 5, 6];
    await Promise.all(seeds.map((seed) => publish(registry, 'french', sampleContainer(seed))));
    const { versions, digest } = await registry.get('french');
    assert.deepEqual(
      versions.map((version) => version.digest).sort(),
      seeds.map((seed) => digestOf(sampleContainer(seed))).sort(),
    );
    assert.equal(versions[0]?.digest, digest);
    const times = versions.map(({ publishedAt }) => publishedAt);
    assert.deepEqual(
      times,
      [...new Set(times)].sort((a, b) => b - a),
      'newest first, no two at the same time',
    );
  });

  test('rollback and removal honour preconditions', async () => {
    const { registry } = await start();
    await publish(registry, 'french', sampleContainer(1));
    const { digest } = await publish(registry, 'french', sampleContainer(2));
    await assert.rejects(
      registry.rollback('french', { precondition: { match: NOBODY } }),
      refusal('precondition_failed'),
    );
    await assert.rejects(
      registry.remove('french', { precondition: { match: NOBODY } }),
      refusal('precondition_failed'),
    );
    await registry.rollback('french', { precondition: { match: digest } });
    await registry.remove('french', { precondition: { match: digestOf(sampleContainer(1)) } });
    assert.deepEqual(await registry.list(), []);
  });
}
