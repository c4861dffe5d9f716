/** What key-value caches hold where the model runs. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chooseKvType } from '../../../server/engine/backend.js';

test('caches are bf16 on a CPU unless fp32 is asked for, and fp32 on a GPU', () => {
  assert.deepEqual([chooseKvType('auto', 'cpu'), chooseKvType('bf16', 'cpu')], ['bf16', 'bf16']);
  assert.equal(chooseKvType('f32', 'cpu'), 'f32');
  assert.deepEqual([chooseKvType('auto', 'cuda'), chooseKvType('f32', 'cuda')], ['f32', 'f32']);
});

test('bf16 caches on a GPU are refused in one line that says what to do', () => {
  assert.throws(() => chooseKvType('bf16', 'cuda'), /expected --kv-dtype f32 on a GPU but received bf16; leave it out/);
});
