/** Those who wait for a task: together, in line, in vain, and until they give up. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeLoader, fakeRegistry } from './fake-loader.js';
import { refusal } from './registry-calls.js';
import { COST, isSettled, make, turns } from './residency-fixture.js';

test('one who gives up waiting does not cancel the load for the others', async () => {
  const loader = new FakeLoader(() => COST, false);
  const { residency } = make(1, { loader });
  const gone = new AbortController();
  const first = residency.acquire('a', gone.signal);
  const second = residency.acquire('a');
  await turns();
  gone.abort(new Error('went away'));
  await assert.rejects(first, /went away/);
  loader.end('a');
  const lease = await second;
  assert.equal(residency.stats().tasks.get('a')?.leases, 1, 'the one who went away holds no lease');
  lease.release();
  residency.checkIntegrity();
});

test('a load that everybody gave up on is kept for the next one, unleased', async () => {
  const loader = new FakeLoader(() => COST, false);
  const { residency } = make(1, { loader });
  const gone = new AbortController();
  const acquiring = residency.acquire('a', gone.signal);
  await turns();
  gone.abort();
  await assert.rejects(acquiring, { name: 'AbortError' });
  loader.end('a');
  await turns();
  assert.deepEqual(residency.stats().tasks.get('a')?.leases, 0);
  const other = residency.acquire('b');
  await turns();
  loader.end('b');
  assert.equal((await other).cold, true);
  residency.checkIntegrity();
});

test('an abort in the same turn in which the load ends leaves no lease behind', async () => {
  for (let steps = 0; steps < 12; steps++) {
    const loader = new FakeLoader(() => COST, false);
    const { residency } = make(1, { loader });
    const gone = new AbortController();
    const acquiring = residency.acquire('a', gone.signal);
    await turns();
    loader.end('a');
    for (let i = 0; i < steps; i++) await Promise.resolve();
    gone.abort(new Error('went away'));
    const lease = await acquiring.catch(() => undefined);
    lease?.release();
    await turns();
    assert.equal(residency.stats().tasks.get('a')?.leases, 0, `${steps} steps`);
    residency.checkIntegrity();
  }
});

test('an acquire whose signal is aborted already does nothing', async () => {
  const { residency, loader } = make(1);
  await assert.rejects(residency.acquire('a', AbortSignal.abort(new Error('gone before'))), /gone before/);
  assert.deepEqual(loader.begun, []);
});

test('a load that fails is told to all who wait, gives its room back, and is tried again by the next', async () => {
  const loader = new FakeLoader(() => COST, false);
  const { residency } = make(1, { loader });
  const waiting = [residency.acquire('a'), residency.acquire('a')];
  await turns();
  loader.fail('a', new Error('damaged'));
  for (const acquiring of waiting) await assert.rejects(acquiring, /damaged/);
  residency.checkIntegrity();
  assert.equal(residency.stats().tasks.size, 0);
  const again = residency.acquire('a');
  await turns();
  loader.end('a');
  (await again).release();
});

test('a container that the registry refuses is refused here, with its error', async () => {
  const registry = fakeRegistry(() => Promise.reject(new Error('quarantined')));
  const { residency, loader } = make(1, { registry });
  await assert.rejects(residency.acquire('a'), /quarantined/);
  assert.deepEqual(loader.begun, []);
  residency.checkIntegrity();
});

test('with all memory in use by running requests a load waits for the first to end, whichever it is', async () => {
  for (const firstToEnd of [0, 1]) {
    const { residency, loader } = make(2);
    const running = [await residency.acquire('a'), await residency.acquire('b')];
    const waiting = residency.acquire('c');
    assert.equal(await isSettled(waiting), false);
    assert.equal(residency.stats().tasks.get('c')?.tier, 'loading');
    residency.checkIntegrity();
    running[firstToEnd]!.release();
    assert.equal(await isSettled(waiting), true);
    assert.equal(loader.mostBytes, 2 * COST);
    for (const lease of [...running, await waiting]) lease.release();
    residency.checkIntegrity();
  }
});

test('a load that waits too long is refused and says when to come back', async () => {
  const { residency } = make(1, { waitMs: 20 });
  const lease = await residency.acquire('a');
  await assert.rejects(residency.acquire('b'), (error) => {
    refusal('out_of_memory', /running requests use all 900 bytes/)(error);
    return (error as { options: { retryAfterSeconds?: number } }).options.retryAfterSeconds === 5;
  });
  lease.release();
  (await residency.acquire('b')).release();
  residency.checkIntegrity();
});

test('one that nobody waits for any more does not keep its place in the line', async () => {
  const { residency, loader } = make(1);
  const lease = await residency.acquire('a');
  const gone = new AbortController();
  const abandoned = residency.acquire('b', gone.signal);
  const waiting = residency.acquire('c');
  await turns();
  gone.abort(new Error('went away'));
  await assert.rejects(abandoned, /went away/);
  const again = residency.acquire('b');
  lease.release();
  (await waiting).release();
  (await again).release();
  assert.deepEqual(loader.begun, ['a', 'c', 'b']);
  residency.checkIntegrity();
});

test('hot tasks with overlapping leases do not starve a cold one', async () => {
  const { residency } = make(1);
  let hot = await residency.acquire('hot');
  const cold = residency.acquire('cold');
  await turns();
  const next = residency.acquire('hot');
  assert.equal(await isSettled(next), false, 'it queues behind the cold one');
  hot.release();
  (await cold).release();
  hot = await next;
  hot.release();
  residency.checkIntegrity();
});
