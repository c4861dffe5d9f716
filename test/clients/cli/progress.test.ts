import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Progress } from '../../../clients/cli/progress.js';

/** A terminal that remembers what was drawn, and a clock that is set by hand. */
function fixture(isTTY: boolean): { drawn: string[]; clock: { ms: number }; progress: Progress } {
  const drawn: string[] = [];
  const clock = { ms: 0 };
  const progress = new Progress('working', { isTTY, write: (text) => drawn.push(text) }, () => clock.ms);
  return { drawn, clock, progress };
}

test('what ends within a second draws nothing', () => {
  const { drawn, clock, progress } = fixture(true);
  clock.ms = 900;
  progress.update(9, 10);
  progress.end();
  assert.deepEqual(drawn, []);
});

test('what takes longer shows how much is done and how long the rest takes, and is cleared at the end', () => {
  const { drawn, clock, progress } = fixture(true);
  clock.ms = 2000;
  progress.update(1, 4);
  assert.equal(drawn.length, 1);
  assert.match(drawn[0] as string, /working {2}█{6}░{18} {2}1\/4, 6 s left$/);
  progress.end();
  assert.equal(drawn[1], '\r\x1b[K');
});

test('the time left is that of the stage, not of what went before', () => {
  const { drawn, clock, progress } = fixture(true);
  clock.ms = 60_000;
  progress.update(0, 10, 'calibrating');
  clock.ms = 62_000;
  progress.update(2, 10, 'calibrating');
  progress.end();
  assert.match(drawn[1] as string, /calibrating .* 2\/10, 8 s left$/);
});

test('updates in quick succession are drawn at most ten times a second', () => {
  const { drawn, clock, progress } = fixture(true);
  for (let done = 0; done <= 1000; done++) {
    clock.ms = 1000 + done;
    progress.update(done, 1000);
  }
  progress.end();
  assert.equal(drawn.length, 11 + 1);
});

test('a pipe gets nothing, however long it takes', () => {
  const { drawn, clock, progress } = fixture(false);
  clock.ms = 60_000;
  progress.update(1, 2);
  progress.end();
  assert.deepEqual(drawn, []);
});
