/** Every state that a crash, a bad disk or a person can leave a store in, built by hand. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rm, truncate, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, test } from 'node:test';
import { openDiskRegistry } from '../../../server/store/disk-registry.js';
import { nodeFileSystem } from '../../../server/store/file-system.js';
import { bytesOf, publish, refusal } from './registry-calls.js';
import { digestOf, sampleContainer, sampleModel } from './sample-masks.js';
import { blobPath, flipByte, openTemporaryStore, temporaryFolder, type TemporaryStore } from './temporary-store.js';

const french = sampleContainer(1);
const german = sampleContainer(2);

let store: TemporaryStore | undefined;
afterEach(async () => {
  await store?.destroy();
  store = undefined;
});

/** A closed store with french at two versions and german at one. */
async function closedStore(): Promise<TemporaryStore> {
  store = await openTemporaryStore({ general: sampleContainer(9) });
  await publish(store.registry, 'french', sampleContainer(0));
  await publish(store.registry, 'french', french);
  await publish(store.registry, 'german', german);
  await store.registry.close();
  return store;
}

function aliasPath({ root }: TemporaryStore, task: string): string {
  return join(root, 'tasks', `${task}.json`);
}

test('unfinished uploads and unfinished alias files are deleted', async () => {
  const { root, reopen, lines, leftovers } = await closedStore();
  const before = await leftovers();
  await writeFile(join(root, 'tmp', 'half-a-container'), french.subarray(0, 300));
  await writeFile(join(root, 'tmp', 'an-alias'), '{"format":1,"task":"fren');
  const registry = await reopen();
  assert.deepEqual(await leftovers(), before);
  assert.equal((await registry.resolve('french')).digest, digestOf(french));
  assert.ok(
    lines.some((line) => line.includes('deleted 2 unfinished writes and 0 containers')),
    lines.join('\n'),
  );
});

test('a container whose alias was never written is deleted', async () => {
  const { root, reopen, leftovers } = await closedStore();
  const before = await leftovers();
  const orphan = sampleContainer(7);
  await writeFile(blobPath(root, digestOf(orphan)), orphan);
  await reopen();
  assert.deepEqual(await leftovers(), before);
});

test('a task removed just before its containers were deleted stays removed', async () => {
  const temporary = await closedStore();
  await unlink(aliasPath(temporary, 'french'));
  const registry = await temporary.reopen();
  await assert.rejects(registry.resolve('french'), refusal('task_not_found'));
  assert.deepEqual(await temporary.leftovers(), [join('blobs', `${digestOf(german)}.mask`)]);
});

for (const [what, damage] of [
  ['cut short', (path: string) => truncate(path, 100)],
  ['empty', (path: string) => truncate(path, 0)],
  ['changed by a bit', flipByte],
] as const) {
  test(`an alias file that is ${what} is reported, its task not served, and no container lost`, async () => {
    const temporary = await closedStore();
    await damage(aliasPath(temporary, 'french'));
    const before = await temporary.leftovers();
    let registry = await temporary.reopen();
    assert.deepEqual(await temporary.leftovers(), before);
    await assert.rejects(registry.resolve('french'), refusal('mask_corrupt', /"french".*publish the task again/));
    await assert.rejects(registry.get('french'), refusal('mask_corrupt'));
    assert.deepEqual(
      (await registry.list()).map(({ task }) => task),
      ['general', 'german'],
    );
    assert.ok(temporary.lines.some((line) => line.includes('french.json is damaged')));
    await registry.remove('german', {});
    assert.deepEqual(await temporary.leftovers(), before, 'the damaged alias may have named it');

    assert.equal((await publish(registry, 'french', french)).created, false);
    assert.equal((await registry.resolve('french')).digest, digestOf(french));
    registry = await temporary.reopen();
    assert.deepEqual(await bytesOf(registry, digestOf(french)), Buffer.from(french));
    assert.deepEqual(await temporary.leftovers(), [join('blobs', `${digestOf(french)}.mask`)]);
  });
}

test('a damaged alias of a shipped task does not fall back to the shipped mask; deleting it does', async () => {
  const temporary = await closedStore();
  await publish(await temporary.reopen(), 'general', french);
  await flipByte(aliasPath(temporary, 'general'));
  const registry = await temporary.reopen();
  await assert.rejects(registry.resolve('general'), refusal('mask_corrupt'));
  await registry.remove('general', {});
  assert.equal((await registry.resolve('general')).digest, digestOf(sampleContainer(9)));
});

test('a damaged alias meets no precondition', async () => {
  const temporary = await closedStore();
  await flipByte(aliasPath(temporary, 'french'));
  const registry = await temporary.reopen();
  await assert.rejects(publish(registry, 'french', german, { absent: true }), refusal('mask_corrupt'));
  await assert.rejects(publish(registry, 'french', german, { match: digestOf(french) }), refusal('mask_corrupt'));
});

test('an alias file of a later format is refused, not guessed at', async () => {
  const temporary = await closedStore();
  const path = aliasPath(temporary, 'french');
  const line = (await readFile(path, 'utf8')).split('\n')[0]!.replace('"format":1', '"format":2');
  await writeFile(path, `${line}\n${createHash('sha256').update(line).digest('hex')}\n`);
  const registry = await temporary.reopen();
  await assert.rejects(registry.resolve('french'), refusal('mask_corrupt', /expected format 1 but received 2/));
});

test('an alias file under the name of another task is refused', async () => {
  const temporary = await closedStore();
  await writeFile(aliasPath(temporary, 'spanish'), await readFile(aliasPath(temporary, 'french')));
  const registry = await temporary.reopen();
  await assert.rejects(registry.resolve('spanish'), refusal('mask_corrupt', /record of spanish/));
});

test('a container that is missing is reported; the earlier version still serves after a rollback', async () => {
  const { root, reopen } = await closedStore();
  await unlink(blobPath(root, digestOf(french)));
  const registry = await reopen();
  await assert.rejects(registry.resolve('french'), refusal('mask_corrupt', /is missing/));
  await registry.rollback('french', {});
  assert.deepEqual(await bytesOf(registry, digestOf(sampleContainer(0))), Buffer.from(sampleContainer(0)));
});

test('a container of another length is set aside at start and healed by publishing it again', async () => {
  const { root, reopen } = await closedStore();
  await truncate(blobPath(root, digestOf(french)), 100);
  const registry = await reopen();
  await assert.rejects(
    registry.path(digestOf(french)),
    refusal('mask_corrupt', /expected \d+ bytes but its file has 100/),
  );
  assert.deepEqual((await readdir(join(root, 'quarantine'))).sort(), [
    `${digestOf(french)}.mask`,
    `${digestOf(french)}.txt`,
  ]);
  await publish(registry, 'french', french);
  assert.deepEqual(await bytesOf(registry, digestOf(french)), Buffer.from(french));
  assert.deepEqual(await readdir(join(root, 'quarantine')), []);
});

test('what was set aside goes when the task is removed', async () => {
  const { root, reopen } = await closedStore();
  await flipByte(blobPath(root, digestOf(french)));
  const registry = await reopen();
  await assert.rejects(registry.path(digestOf(french)), refusal('mask_corrupt'));
  await registry.remove('french', {});
  assert.deepEqual(await readdir(join(root, 'quarantine')), []);
  assert.equal(registry.quarantined().size, 0);
});

test('all who wait for a container to be verified hear that it is damaged', async () => {
  const { root, reopen } = await closedStore();
  await flipByte(blobPath(root, digestOf(french)));
  const registry = await reopen();
  const outcomes = await Promise.allSettled(Array.from({ length: 5 }, () => registry.path(digestOf(french))));
  for (const outcome of outcomes) {
    assert.equal(outcome.status, 'rejected');
    refusal('mask_corrupt')((outcome as PromiseRejectedResult).reason);
  }
});

test("files that are not the store's are left alone and mentioned", async () => {
  const { root, reopen, lines } = await closedStore();
  await writeFile(join(root, 'blobs', 'notes.txt'), 'mine');
  await writeFile(join(root, 'tasks', 'README'), 'mine');
  await reopen();
  assert.equal(await readFile(join(root, 'blobs', 'notes.txt'), 'utf8'), 'mine');
  assert.equal(await readFile(join(root, 'tasks', 'README'), 'utf8'), 'mine');
  assert.equal(lines.filter((line) => line.startsWith('ignoring')).length, 2);
});

test('a store whose folders were only half made is completed', async () => {
  const temporary = await closedStore();
  await rm(join(temporary.root, 'quarantine'), { recursive: true });
  await rm(join(temporary.root, 'tmp'), { recursive: true });
  const registry = await temporary.reopen();
  await publish(registry, 'spanish', sampleContainer(5));
});

test('a store directory that is a file, or lies under one, is one clear line', async () => {
  const folder = await temporaryFolder();
  const file = join(folder, 'file');
  await writeFile(file, '');
  for (const directory of [file, join(file, 'below')]) {
    await assert.rejects(
      openDiskRegistry({ directory, model: sampleModel() }),
      /^Error: can't use .*file.* as the store: it is not a directory .*; choose another directory with --store$/,
    );
  }
  await rm(folder, { recursive: true });
});

test("two models share a store directory without seeing each other's tasks", async () => {
  const temporary = await closedStore();
  const other = { ...sampleModel(), base: '5a'.repeat(32) };
  const theirs = await openDiskRegistry({ ...temporary.options, shippedDirectory: undefined, model: other });
  const bytes = sampleContainer(1, { base: other.base });
  await publish(theirs, 'french', bytes);
  const ours = await temporary.reopen();
  assert.ok(
    temporary.lines.some((line) => line.includes("keeps 1 tasks for other base weights, which sample can't use")),
  );
  assert.equal((await ours.resolve('french')).digest, digestOf(french));
  assert.equal((await theirs.resolve('french')).digest, digestOf(bytes));
  assert.equal((await theirs.list()).length, 1);
  await theirs.close();
});

test('a task keeps its newest versions up to the limit, and the containers of the rest go', async () => {
  store = await openTemporaryStore({}, { versionLimit: 3 });
  for (let seed = 0; seed < 6; seed++) await publish(store.registry, 'french', sampleContainer(seed));
  const { versions } = await store.registry.get('french');
  assert.deepEqual(
    versions.map(({ digest }) => digest),
    [5, 4, 3].map((seed) => digestOf(sampleContainer(seed))),
  );
  assert.equal((await store.leftovers()).length, 3);
});

test('publishing a container while it is being deleted for want of a name keeps it, however slow the disk is', async () => {
  const unlinkSlowly = async (path: string): Promise<void> => {
    await new Promise((resolve) => setTimeout(resolve, 100));
    await nodeFileSystem.unlink(path);
  };
  store = await openTemporaryStore({}, { fileSystem: { ...nodeFileSystem, unlink: unlinkSlowly } });
  await publish(store.registry, 'french', french);
  const removing = store.registry.remove('french', {});
  await new Promise((resolve) => setTimeout(resolve, 150));
  await publish(store.registry, 'german', french);
  await removing;
  assert.deepEqual(await bytesOf(store.registry, digestOf(french)), Buffer.from(french));
});

test('a container outlives its last name for the time of grace, so that a request under way can load it', async () => {
  store = await openTemporaryStore({}, { graceMs: 150 });
  const { digest } = await publish(store.registry, 'french', french);
  await store.registry.remove('french', {});
  assert.deepEqual(await bytesOf(store.registry, digest), Buffer.from(french));
  while ((await store.leftovers()).length > 0) await new Promise((resolve) => setTimeout(resolve, 20));
  await assert.rejects(store.registry.read(digest), refusal('version_not_found'));
});

test('a container published again within the time of grace stays', async () => {
  store = await openTemporaryStore({}, { graceMs: 50 });
  await publish(store.registry, 'french', french);
  await store.registry.remove('french', {});
  await publish(store.registry, 'german', french);
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.deepEqual(await bytesOf(store.registry, digestOf(french)), Buffer.from(french));
});

test('the folder of shipped masks may be missing', async () => {
  const folder = await temporaryFolder();
  const options = { directory: join(folder, 'store'), shippedDirectory: join(folder, 'none'), model: sampleModel() };
  const registry = await openDiskRegistry(options);
  assert.deepEqual(await registry.list(), []);
  await registry.close();
  await mkdir(options.shippedDirectory);
  await (await openDiskRegistry(options)).close();
  await rm(folder, { recursive: true });
});
