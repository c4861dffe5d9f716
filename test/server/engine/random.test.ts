import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Random } from '../../../server/engine/random.js';

function draws(seed: number, count: number): number[] {
  const random = new Random(seed);
  return Array.from({ length: count }, () => random.uniform());
}

test('the same seed gives the same numbers, another seed others', () => {
  assert.deepEqual(draws(7, 5), draws(7, 5));
  for (const other of [8, 7 + 2 ** 32, -7, 0]) assert.notDeepEqual(draws(7, 5), draws(other, 5));
});

test('numbers are uniform in [0, 1)', () => {
  const values = draws(1, 100_000);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  assert.ok(values.every((value) => value >= 0 && value < 1));
  assert.ok(Math.abs(mean - 0.5) < 0.005, `mean ${mean}`);
  const tenths = new Array<number>(10).fill(0);
  for (const value of values) tenths[Math.floor(value * 10)]! += 1;
  assert.ok(
    tenths.every((count) => Math.abs(count - 10_000) < 500),
    tenths.join(' '),
  );
});
