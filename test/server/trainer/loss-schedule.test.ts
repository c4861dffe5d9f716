import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  klWeightAt,
  lossAgainst,
  mixThenLm,
  parseLossSchedule,
  totalSteps,
} from '../../../server/trainer/loss-schedule.js';

test('phases follow each other, each with its share of KL', () => {
  const phases = parseLossSchedule('kl:2, 0.7:1,mix:1,lm:2');
  assert.equal(totalSteps(phases), 6);
  assert.deepEqual(
    Array.from({ length: 7 }, (_, s) => klWeightAt(phases, s)),
    [1, 1, 0.7, 0.5, 0, 0, 0],
  );
});

test('a single phase may leave its steps to --steps', () => {
  assert.deepEqual(parseLossSchedule('mix', 30), [{ klWeight: 0.5, steps: 30 }]);
  assert.deepEqual(parseLossSchedule('kl:30', 30), [{ klWeight: 1, steps: 30 }]);
});

test('without a schedule half of the steps have half KL, the rest LM alone', () => {
  assert.deepEqual(mixThenLm(160), [
    { klWeight: 0.5, steps: 80 },
    { klWeight: 0, steps: 80 },
  ]);
  assert.equal(totalSteps(mixThenLm(7)), 7);
  assert.deepEqual(mixThenLm(0), []);
});

test('a teacher that is a few percent better than the start has nothing to teach', () => {
  assert.equal(lossAgainst(8.64, 12.7), 'mix');
  assert.equal(lossAgainst(13.99, 15.5), 'mix');
  assert.equal(lossAgainst(8.4, 8.97), 'lm');
  assert.equal(lossAgainst(25.49, 13.6), 'lm');
});

test('what is no schedule is refused', () => {
  for (const text of ['', 'kl:100,lm', 'ce:5', 'kl:1.5', '1.5:3', 'kl:-2']) {
    assert.throws(() => parseLossSchedule(text), /^RangeError: expected --loss to be like kl:100,lm:60/, text);
  }
  assert.throws(() => parseLossSchedule('kl:100,lm:60', 100), /100 steps together, as --steps says, but they have 160/);
});
