/**
 * The N-th call of the file system fails, for every N of a store's life and every kind of failure: nothing acknowledged is lost, nothing half
 * done is visible, then and after a restart. (SQLite tests its I/O errors this way: sqlite.org/testing.html §3.)
 */
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { openDiskRegistry } from '../../../server/store/disk-registry.js';
import { ServerError } from '../../../server/errors.js';
import { nodeFileSystem } from '../../../server/store/file-system.js';
import type { Registry } from '../../../server/store/types.js';
import { failingFileSystem, type FailingFileSystem, type Fault } from './failing-file-system.js';
import { publish, refusal } from './registry-calls.js';
import { sampleContainer } from './sample-masks.js';
import {
  assertAllReadable,
  assertOneOf,
  INITIAL,
  readState,
  SCENARIO,
  SCENARIO_SHIPPED,
  stateAfter,
} from './scenario.js';
import { blobPath, filesIn, inlineChecker, openTemporaryStore, type TemporaryStore } from './temporary-store.js';

for (const fault of ['EIO', 'ENOSPC', 'EMFILE', 'short'] as const) {
  test(`a call that fails with ${fault}, whichever it is, loses nothing acknowledged`, async () => {
    let failAt = 1;
    while (await liveWithFault(failAt, fault)) failAt++;
    assert.ok(failAt > 60 || (fault === 'short' && failAt > 10), `only ${failAt} calls were made to fail`);
  });
}

/** Runs the scenario with one fault. False if the scenario ended before the call that was to fail. */
async function liveWithFault(failAt: number, fault: Fault): Promise<boolean> {
  const store = await openTemporaryStore(SCENARIO_SHIPPED, { checker: inlineChecker });
  await store.registry.close();
  await leaveLitter(store);
  const files = failingFileSystem(nodeFileSystem, failAt, fault);
  let possible = [INITIAL];
  const registry = await openWithFault(store, files);
  if (registry) {
    possible = await liveOn(store, registry, files, fault);
    await registry.close();
  }
  const what = `call ${failAt} (${files.failed()}) failed with ${fault}`;
  const again = await store.reopen();
  assertOneOf(await readState(again), possible, `after a restart, ${what}`);
  await assertAllReadable(again);
  await assertNothingLeft(store, again, what);
  await store.destroy();
  return files.failed() !== undefined;
}

/** What a crash may have left, so that recovery has calls to make. */
async function leaveLitter({ root }: TemporaryStore): Promise<void> {
  await writeFile(join(root, 'tmp', 'unfinished'), 'x');
  await writeFile(blobPath(root, 'f'.repeat(64)), 'x');
  await mkdir(join(root, 'quarantine'), { recursive: true });
  await writeFile(join(root, 'quarantine', `${'e'.repeat(64)}.txt`), 'x');
}

async function openWithFault(store: TemporaryStore, files: FailingFileSystem): Promise<Registry | undefined> {
  try {
    return await openDiskRegistry({ ...store.options, fileSystem: files });
  } catch (error) {
    assert.notEqual(files.failed(), undefined, String(error));
    return undefined;
  }
}

/** Runs the steps; after each, what is served is what was acknowledged. Returns the states that a restart may find. */
async function liveOn(store: TemporaryStore, registry: Registry, files: FailingFileSystem, fault: Fault) {
  let state = INITIAL;
  for (const step of SCENARIO) {
    const failedBefore = files.failed();
    try {
      await step.run(registry);
      state = stateAfter(step);
    } catch (error) {
      assert.notEqual(fault, 'short');
      assert.equal(failedBefore, undefined, `a passing fault may fail one call only: ${step.name}: ${String(error)}`);
      await assertHonest(registry, error, fault);
      assertOneOf(await readState(registry), [state], `while running, ${files.failed()} failed in "${step.name}"`);
      await assertAllReadable(registry);
      if (await takesChanges(registry)) {
        await assertNothingLeft(store, registry, `${files.failed()} failed in "${step.name}"`);
        await step.run(registry);
        state = stateAfter(step);
        continue;
      }
      return [state, stateAfter(step)];
    }
    assertOneOf(await readState(registry), [state], `after "${step.name}"`);
  }
  return [state];
}

/** The error says what is wrong: a full disk, or a failing one. */
async function assertHonest(registry: Registry, error: unknown, fault: Fault): Promise<void> {
  assert.ok(error instanceof ServerError, String(error));
  if (error.code === 'disk_full') assert.equal(fault, 'ENOSPC');
  else assert.equal(error.code, 'store_failed');
  if (!(await takesChanges(registry))) {
    await assert.rejects(
      publish(registry, 'probe', sampleContainer(4)),
      refusal('store_failed', /stopped taking changes.*restart the server/),
    );
  }
}

/** Whether the store goes on after the failure: it does if the failed call is known to have changed nothing. */
async function takesChanges(registry: Registry): Promise<boolean> {
  try {
    await publish(registry, 'probe', sampleContainer(4));
    await registry.remove('probe', {});
    return true;
  } catch (error) {
    refusal('store_failed')(error);
    return false;
  }
}

async function assertNothingLeft({ root }: TemporaryStore, registry: Registry, what: string): Promise<void> {
  const stored = [...(await readState(registry))].filter(([task]) => task !== 'general');
  const records = await registry.list();
  const overridden = records.filter(({ task, shipped }) => task === 'general' && !shipped);
  const digests = new Set([
    ...stored.flatMap(([, { versions }]) => versions),
    ...overridden.flatMap(({ versions }) => versions.map(({ digest }) => digest)),
  ]);
  const files = await filesIn(root, ['tmp', 'blobs', 'quarantine']);
  for (const file of files)
    assert.ok(
      [...digests].some((digest) => file === join('blobs', `${digest}.mask`)),
      `${what}: ${file}`,
    );
}

test('a failed fsync stops all changes until a restart, and reads go on', async () => {
  const store = await openTemporaryStore();
  await publish(store.registry, 'french', sampleContainer(1));
  await store.registry.close();
  let failing = false;
  const registry = await openDiskRegistry({
    ...store.options,
    fileSystem: {
      ...nodeFileSystem,
      create: async (path) => ({
        ...(await nodeFileSystem.create(path)),
        sync: async () => {
          if (failing) throw Object.assign(new Error('EIO: i/o error, fsync'), { code: 'EIO' });
        },
      }),
    },
  });
  failing = true;
  await assert.rejects(
    publish(registry, 'french', sampleContainer(2)),
    refusal('store_failed', /fsync.*EIO.*stays served/),
  );
  failing = false;
  await assert.rejects(publish(registry, 'french', sampleContainer(2)), refusal('store_failed'));
  await assert.rejects(registry.remove('french', {}), refusal('store_failed'));
  await assertAllReadable(registry);
  await registry.close();
  await publish(await store.reopen(), 'french', sampleContainer(2));
  await store.destroy();
});
