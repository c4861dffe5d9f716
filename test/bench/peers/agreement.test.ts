import assert from 'node:assert/strict';
import { test } from 'node:test';
import { distance, sameGreedy } from './agreement.js';

const rows = (...values: number[][]): Float32Array[] => values.map((row) => Float32Array.from(row));

test('equal logits are no distance apart, whatever is added to both', () => {
  assert.equal(distance(rows([1, 2, 3], [4, 5, 9]), rows([1, 2, 3], [4, 5, 9])), 0);
});

test('logits of another model are as far apart as they are wide', () => {
  assert.ok(distance(rows([3, 2, 1]), rows([1, 2, 3])) > 1);
  assert.ok(Math.abs(distance(rows([2, 2, 2]), rows([1, 2, 3])) - 1) < 1e-6);
});

test('a NaN is no distance that any tolerance allows', () => {
  assert.ok(!(distance(rows([NaN, 2, 3]), rows([1, 2, 3])) <= 1e9));
});

test('logits of another vocabulary are refused', () => {
  assert.throws(() => distance(rows([1, 2]), rows([1, 2, 3])), /expected 1 rows of 3 logits but received 1 of 2/);
});

test('another likeliest token counts as another, unless the two are a tie', () => {
  const expected = rows([0, 1, 10], [0, 9.99, 10]);
  assert.equal(sameGreedy(rows([0, 1, 10], [0, 9.99, 10]), expected), 2);
  assert.equal(sameGreedy(rows([0, 10, 9], [0, 10, 9.99]), expected), 1);
});
