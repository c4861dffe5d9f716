import assert from 'node:assert/strict';
import { test } from 'node:test';
import { taskBudget, WORKING_BYTES } from '../../../server/engine/device-budget.js';

const GIB = 2 ** 30;
const device = { name: 'GPU', freeBytes: 10 * GIB, totalBytes: 24 * GIB };

test('tasks get what weights, key-value caches and working memory leave of a GPU', () => {
  assert.equal(taskBudget(device, 2 * GIB, undefined), 8 * GIB - WORKING_BYTES);
  assert.equal(taskBudget(device, 2 * GIB, GIB), GIB);
  assert.equal(taskBudget(device, 2 * GIB, 8 * GIB - WORKING_BYTES), 8 * GIB - WORKING_BYTES);
});

test('budgets that can’t be had are refused with their figures, before anything is allocated', () => {
  assert.throws(
    () => taskBudget(device, 2 * GIB, 8 * GIB),
    /expected --cache-bytes of 8192 MiB and --kv-bytes of 2048 MiB to fit in the 10240 MiB that the weights leave of GPU .*lower one/,
  );
  assert.throws(() => taskBudget(device, 10 * GIB, undefined), /expected room for tasks and --kv-bytes of 10240 MiB/);
});
