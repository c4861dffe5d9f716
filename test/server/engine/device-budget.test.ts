import assert from 'node:assert/strict';
import { test } from 'node:test';
import { deviceShares, WORKING_BYTES } from '../../../server/engine/device-budget.js';

const GIB = 2 ** 30;
const device = { name: 'GPU', freeBytes: 10 * GIB, totalBytes: 24 * GIB };
const LEFT = 8 * GIB - WORKING_BYTES;
const alone = (wanted?: number) => ({ wanted, trains: false });
const shared = (wanted?: number) => ({ wanted, trains: true });

test('tasks get what weights, key-value caches and working memory leave of a GPU', () => {
  assert.deepEqual(deviceShares(device, 2 * GIB, alone()), { taskBytes: LEFT, trainBytes: 0 });
  assert.deepEqual(deviceShares(device, 2 * GIB, alone(GIB)), { taskBytes: GIB, trainBytes: 0 });
  assert.deepEqual(deviceShares(device, 2 * GIB, alone(LEFT)), { taskBytes: LEFT, trainBytes: 0 });
});

test('where jobs train on the GPU too, tasks get half of that, or what was asked for, and a job the rest', () => {
  assert.deepEqual(deviceShares(device, 2 * GIB, shared()), { taskBytes: LEFT / 2, trainBytes: LEFT / 2 });
  assert.deepEqual(deviceShares(device, 2 * GIB, shared(GIB)), { taskBytes: GIB, trainBytes: LEFT - GIB });
  assert.deepEqual(deviceShares(device, 2 * GIB, shared(LEFT)), { taskBytes: LEFT, trainBytes: 0 });
});

test('budgets that can’t be had are refused with their figures, before anything is allocated', () => {
  assert.throws(
    () => deviceShares(device, 2 * GIB, alone(8 * GIB)),
    /expected --cache-bytes of 8192 MiB and --kv-bytes of 2048 MiB to fit in the 10240 MiB that the weights leave of GPU .*lower one/,
  );
  for (const asked of [alone(), shared()]) {
    assert.throws(() => deviceShares(device, 10 * GIB, asked), /expected room for tasks and --kv-bytes of 10240 MiB/);
  }
});
