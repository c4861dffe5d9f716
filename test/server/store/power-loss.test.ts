/** The power goes after every single call of a store's life, and the disk keeps as little, or as odd a part, as it may. */
import assert from 'node:assert/strict';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { openDiskRegistry, type DiskRegistryOptions } from '../../../server/store/disk-registry.js';
import { nodeFileSystem } from '../../../server/store/file-system.js';
import { powerLossFileSystem, type PowerLossFileSystem, type PowerLossOptions } from './power-loss.js';
import { BASE, randomFrom } from './sample-masks.js';
import {
  assertAllReadable,
  assertOneOf,
  INITIAL,
  readState,
  SCENARIO,
  SCENARIO_SHIPPED,
  stateAfter,
} from './scenario.js';
import { inlineChecker, openTemporaryStore } from './temporary-store.js';

/** Disks looked at for each call. */
const DISKS = 4;

/** Runs the scenario and checks, after every call, that what was acknowledged survives. Returns the number of disks looked at. */
async function liveWithPowerLoss(unsynced?: PowerLossOptions['unsynced']): Promise<number> {
  const store = await openTemporaryStore(SCENARIO_SHIPPED, { checker: inlineChecker });
  await store.registry.close();
  const random = randomFrom(7);
  let possible = [INITIAL];
  let disks = 0;
  const violations: unknown[] = [];
  let files: PowerLossFileSystem | undefined = undefined;
  const onCall = async (): Promise<void> => {
    for (let disk = 0; disk < DISKS && files; disk++) {
      const directory = join(store.directory, '..', `disk-${disks++}`);
      // Thrown here, it would pass for a failure of the file system, which the store survives.
      await assertSurvives(files, { ...store.options, directory, fileSystem: nodeFileSystem }, possible, random).catch(
        (error: unknown) => violations.push(error),
      );
    }
  };
  const tracked = powerLossFileSystem(nodeFileSystem, store.root, { unsynced, onCall });
  const registry = await openDiskRegistry({ ...store.options, fileSystem: tracked });
  files = tracked;
  try {
    let state = INITIAL;
    for (const step of SCENARIO) {
      possible = [state, stateAfter(step)];
      await step.run(registry);
      state = stateAfter(step);
      possible = [state];
      await onCall();
    }
  } finally {
    await registry.close();
    await store.destroy();
  }
  if (violations.length > 0) throw violations[0];
  return disks;
}

async function assertSurvives(
  files: PowerLossFileSystem,
  options: DiskRegistryOptions,
  possible: Parameters<typeof assertOneOf>[1],
  random: () => number,
): Promise<void> {
  await mkdir(options.directory);
  try {
    await files.surviving(join(options.directory, BASE), random);
    const registry = await openDiskRegistry(options);
    try {
      assertOneOf(await readState(registry), possible, 'after a power loss');
      await assertAllReadable(registry);
    } finally {
      await registry.close();
    }
  } finally {
    await rm(options.directory, { recursive: true });
  }
}

test('a power loss after any call loses nothing acknowledged and leaves nothing half done', async () => {
  const disks = await liveWithPowerLoss();
  assert.ok(disks > 60 * DISKS, `only ${disks} disks were looked at`);
});

for (const unsynced of ['files', 'blobs', 'tasks'] as const) {
  test(`this test would notice a missing fsync of ${unsynced}`, async () => {
    await assert.rejects(liveWithPowerLoss(unsynced), assert.AssertionError);
  });
}
