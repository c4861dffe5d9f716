/** Start-up with deltas: what a crash, a bad disk or a person may have done to what they stand on. */
import assert from 'node:assert/strict';
import { readdir, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, test } from 'node:test';
import { bytesOf, publish, refusal } from './registry-calls.js';
import { childOf, rootMember } from './sample-deltas.js';
import { digestOf, sampleContainer } from './sample-masks.js';
import { blobPath, inlineChecker, openTemporaryStore, type TemporaryStore } from './temporary-store.js';

const general = rootMember(1);
const french = childOf(general, 2);
const older = childOf(general, 3);

let store: TemporaryStore | undefined;
afterEach(async () => {
  await store?.destroy();
  store = undefined;
});

async function closedStore(options: { versionLimit?: number } = {}): Promise<TemporaryStore> {
  store = await openTemporaryStore({}, { checker: inlineChecker, ...options });
  await publish(store.registry, 'general', general.bytes);
  await publish(store.registry, 'french', french.bytes);
  await store.registry.close();
  return store;
}

test('a delta is served after a restart', async () => {
  const { reopen } = await closedStore();
  const registry = await reopen();
  assert.deepEqual((await registry.get('french')).blob.needs, { parent: general.content, weights: false });
  assert.equal((await registry.lineage(digestOf(french.bytes))).length, 2);
});

test('a delta whose parent’s file is gone is reported by name, refused, and heals when the parent is published again', async () => {
  const { root, reopen, lines } = await closedStore();
  await unlink(blobPath(root, digestOf(general.bytes)));
  const registry = await reopen();
  const warned = lines.filter((line) => line.includes('task "french"') && line.includes(general.content));
  assert.equal(warned.length, 1, lines.join('\n'));
  await assert.rejects(registry.resolve('french'), refusal('mask_corrupt', new RegExp(general.content)));
  await assert.rejects(registry.flatten(digestOf(french.bytes)), refusal('mask_corrupt'));
  await publish(registry, 'another-name', general.bytes);
  assert.equal((await registry.resolve('french')).content, french.content);
});

test('records from before there were deltas are read as masks that need nothing', async () => {
  const { root, reopen } = await closedStore();
  const { createHash } = await import('node:crypto');
  const { readFile } = await import('node:fs/promises');
  const path = join(root, 'tasks', 'general.json');
  const [line = ''] = (await readFile(path, 'utf8')).split('\n');
  const old = line.replace('"needs":{"weights":false},', '');
  assert.notEqual(old, line);
  await writeFile(path, `${old}\n${createHash('sha256').update(old).digest('hex')}\n`);
  const registry = await reopen();
  assert.deepEqual((await registry.get('general')).blob.needs, { parent: undefined, weights: false });
  assert.equal((await registry.lineage(digestOf(french.bytes))).length, 2);
});

test('a parent whose record is damaged still stands under its deltas', async () => {
  const { root, reopen } = await closedStore();
  await writeFile(join(root, 'tasks', 'general.json'), 'rotten');
  const registry = await reopen();
  await assert.rejects(registry.resolve('general'), refusal('mask_corrupt'));
  assert.equal((await registry.lineage(digestOf(french.bytes))).length, 2);
  // Published over, its record is whole again, and the parent is one of no version: it stays as long as a delta needs it.
  await publish(registry, 'general', sampleContainer(7));
  assert.equal((await registry.lineage(digestOf(french.bytes))).length, 2);
  const again = await store!.reopen();
  assert.equal((await again.lineage(digestOf(french.bytes))).length, 2);
  assert.deepEqual(await bytesOf(again, digestOf(french.bytes)), Buffer.from(french.bytes));
  await again.remove('french', {});
  await store!.reopen();
  assert.deepEqual(await readdir(join(root, 'blobs')), [`${digestOf(sampleContainer(7))}.mask`]);
});

test('versions beyond the limit stay as long as deltas stand on them', async () => {
  const { reopen, registry: closed } = await closedStore({ versionLimit: 2 });
  assert.ok(closed);
  const registry = await reopen();
  for (const seed of [11, 12, 13]) await publish(registry, 'general', sampleContainer(seed));
  const digests = async (): Promise<string[]> => (await registry.get('general')).versions.map(({ digest }) => digest);
  const seeds = (...all: number[]): string[] => all.map((seed) => digestOf(sampleContainer(seed)));
  assert.deepEqual(await digests(), [...seeds(13, 12), digestOf(general.bytes)]);
  assert.equal((await registry.lineage(digestOf(french.bytes))).length, 2);
  await registry.remove('french', {});
  await publish(registry, 'general', sampleContainer(14));
  assert.deepEqual(await digests(), seeds(14, 13));
});

test('a task keeps the version that its own later version is coded against', async () => {
  store = await openTemporaryStore({}, { checker: inlineChecker, versionLimit: 2 });
  const { registry } = store;
  await publish(registry, 'french', general.bytes);
  for (const { bytes } of [older, french]) await publish(registry, 'french', bytes);
  const kept = (await registry.get('french')).versions.map(({ digest }) => digest);
  assert.deepEqual(
    kept,
    [french, older, general].map(({ bytes }) => digestOf(bytes)),
  );
  assert.equal((await registry.lineage(digestOf(french.bytes))).length, 2);
});

test('what was removed can still be loaded beside its parent for as long as it is kept', async () => {
  store = await openTemporaryStore({}, { checker: inlineChecker, graceMs: 60_000 });
  const { registry } = store;
  await publish(registry, 'general', general.bytes);
  await publish(registry, 'french', french.bytes);
  await registry.remove('french', {});
  await registry.remove('general', {});
  assert.equal((await registry.lineage(digestOf(french.bytes))).length, 2);
  await assert.rejects(publish(registry, 'german', older.bytes), refusal('parent_unknown'));
});
