/** What is resident: what goes when memory is short, what is leased, evicted, closed. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Digest } from '../../../codec/mask-set.js';
import type { Lease } from '../../../server/store/types.js';
import { FakeLoader, fakeRegistry } from './fake-loader.js';
import { refusal } from './registry-calls.js';
import { COST, make, turns } from './residency-fixture.js';
import { randomFrom } from './sample-masks.js';

test('the first acquire of a task loads it, the next ones find it', async () => {
  const { residency, loader } = make(2);
  const cold = await residency.acquire('a');
  const warm = await residency.acquire('a');
  assert.deepEqual([cold.cold, warm.cold], [true, false]);
  assert.equal(cold.weights, warm.weights);
  assert.deepEqual(loader.begun, ['a']);
  const { hits, misses, residentBytes, budgetBytes, tasks } = residency.stats();
  assert.deepEqual(
    { hits, misses, residentBytes, budgetBytes },
    { hits: 1, misses: 1, residentBytes: 900, budgetBytes: 1800 },
  );
  assert.deepEqual(tasks.get('a'), {
    tier: 'resident',
    bytes: 900,
    leases: 2,
    load: { ms: cold.loadMs, decodeMs: 0, compactMs: 0 },
  });
});

test('what a task will take is known before any is loaded', () => {
  assert.equal(make(1).residency.costBytes(), COST);
});

test('many who ask at once share one load', async () => {
  const { residency, loader } = make(2);
  const leases = await Promise.all(Array.from({ length: 50 }, () => residency.acquire('a')));
  assert.deepEqual(loader.begun, ['a']);
  assert.equal(residency.stats().tasks.get('a')?.leases, 50);
  for (const lease of leases) lease.release();
  assert.equal(residency.stats().tasks.get('a')?.leases, 0);
  residency.checkIntegrity();
});

test('the least recently used task goes first', async () => {
  const { residency, loader } = make(2);
  (await residency.acquire('a')).release();
  (await residency.acquire('b')).release();
  (await residency.acquire('a')).release();
  (await residency.acquire('c')).release();
  assert.deepEqual([...loader.live].sort(), ['a', 'c']);
  assert.equal(residency.stats().evictions, 1);
});

test('a leased task is not freed, however old it is', async () => {
  const { residency, loader } = make(2);
  const old = await residency.acquire('a');
  for (const digest of ['b', 'c', 'd', 'e']) (await residency.acquire(digest)).release();
  assert.ok(loader.live.has('a'));
  assert.equal(loader.mostBytes, 2 * COST);
  old.release();
});

test('releasing twice is harmless', async () => {
  const { residency } = make(1);
  const first = await residency.acquire('a');
  const second = await residency.acquire('a');
  first.release();
  first.release();
  assert.equal(residency.stats().tasks.get('a')?.leases, 1);
  second.release();
  residency.checkIntegrity();
});

test('a task larger than the whole budget is refused before anything is done, with the numbers', async () => {
  const loader = new FakeLoader(() => COST);
  const { residency } = make(1, { budgetBytes: 899, loader });
  await assert.rejects(
    residency.acquire('a'),
    refusal('out_of_memory', /takes 900 bytes.*may take 899.*--cache-bytes/),
  );
  assert.deepEqual(loader.begun, []);
});

test('a budget that is no number of bytes is refused', () => {
  for (const budgetBytes of [0, -1, 1.5, Number.NaN]) {
    assert.throws(() => make(1, { budgetBytes }), new RegExp(`received ${budgetBytes}`));
  }
});

test('a task evicted while leased is counted outside, and taken back instead of loaded twice', async () => {
  const { residency, loader } = make(2);
  const lease = await residency.acquire('a');
  residency.evict('a');
  const { residentBytes, leasedOutsideBytes, tasks } = residency.stats();
  assert.deepEqual({ residentBytes, leasedOutsideBytes }, { residentBytes: 0, leasedOutsideBytes: COST });
  assert.equal(tasks.get('a')?.tier, 'resident');
  residency.checkIntegrity();
  const again = await residency.acquire('a');
  assert.equal(again.cold, false);
  assert.equal(again.weights, lease.weights);
  assert.equal(residency.stats().leasedOutsideBytes, 0);
  residency.evict('a');
  again.release();
  assert.ok(loader.live.has('a'));
  lease.release();
  assert.equal(loader.live.size, 0);
  residency.checkIntegrity();
});

test('a task that is being loaded because others waited is not taken back under the load', async () => {
  const paths: (() => void)[] = [];
  const registry = fakeRegistry(() => new Promise<void>((resolve) => paths.push(resolve)));
  const { residency, loader } = make(1, { registry });
  const first = residency.acquire('a');
  paths.shift()?.();
  const lease = await first;
  const cold = residency.acquire('b', AbortSignal.timeout(20));
  paths.shift()?.();
  await turns();
  const queued = residency.acquire('a');
  await assert.rejects(cold, { name: 'TimeoutError' });
  const joining = residency.acquire('a');
  paths.shift()?.();
  const [second, third] = await Promise.all([queued, joining]);
  assert.equal(second.weights, lease.weights);
  assert.equal(third.weights, lease.weights);
  assert.deepEqual(loader.begun, ['a']);
  for (const held of [lease, second, third]) held.release();
  residency.checkIntegrity();
});

test('an unleased task is freed by evict at once; one that is being loaded goes when its leases end', async () => {
  const loader = new FakeLoader(() => COST, false);
  const { residency } = make(2, { loader });
  const acquiring = residency.acquire('a');
  await turns();
  residency.evict('a');
  loader.end('a');
  const lease = await acquiring;
  assert.ok(loader.live.has('a'));
  lease.release();
  assert.equal(loader.live.size, 0);
  residency.evict('never heard of');
  residency.checkIntegrity();
});

test('a task that covers less than the model takes only what it needs', async () => {
  const loader = new FakeLoader((digest) => (digest.startsWith('part') ? 300 : COST));
  const { residency } = make(2, { loader });
  for (const digest of ['part1', 'part2', 'part3', 'a']) (await residency.acquire(digest)).release();
  assert.deepEqual([...loader.live].sort(), ['a', 'part1', 'part2', 'part3']);
  assert.equal(residency.stats().residentBytes, 1800);
  residency.checkIntegrity();
});

test('closing frees what is not leased, tells those who wait, and frees the rest with its last lease', async () => {
  const loader = new FakeLoader(() => COST, false);
  const { residency } = make(2, { loader });
  const acquire = async (digest: Digest): Promise<Lease> => {
    const acquiring = residency.acquire(digest);
    await turns();
    loader.end(digest);
    return acquiring;
  };
  const lease = await acquire('a');
  (await acquire('b')).release();
  const loading = residency.acquire('c');
  await turns();
  const waiting = residency.acquire('d');
  await turns();
  const [, first, second] = await Promise.all([
    residency.close(),
    loading.catch((error: unknown) => error),
    waiting.catch((error: unknown) => error),
  ]);
  assert.match(String(first), /closed/);
  refusal('shutting_down')(second);
  assert.deepEqual([...loader.live], ['a']);
  await assert.rejects(residency.acquire('a'), refusal('shutting_down'));
  lease.release();
  assert.equal(loader.live.size, 0);
  residency.checkIntegrity();
});

test('thousands of random acquires, releases, aborts, evictions and failures keep the books balanced', async () => {
  const random = randomFrom(2026);
  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)]!;
  const digests = Array.from({ length: 12 }, (_, i) => `t${i}`);
  const sizes = new Map(digests.map((digest, i) => [digest, i % 3 === 0 ? 450 : COST]));
  const loader = new FakeLoader((digest) => sizes.get(digest)!);
  const failing = new Set<Digest>();
  const registry = fakeRegistry(async (digest) => {
    if (random() < 0.5) await nextTurn();
    if (failing.delete(digest)) throw new Error('made to fail');
  });
  const { residency } = make(4, { loader, registry, waitMs: 1e6 });
  const leases: Lease[] = [];
  const pending = new Set<Promise<void>>();
  let granted = 0;
  for (let i = 0; i < 20_000; i++) {
    const dice = random();
    if (dice < 0.4) {
      const controller = new AbortController();
      const acquiring = residency.acquire(pick(digests), controller.signal).then(
        (lease) => {
          assert.ok(loader.live.has(lease.weights.digest), 'leased weights are allocated');
          granted++;
          leases.push(lease);
        },
        (error: unknown) => assert.match(String(error), /AbortError|made to fail/),
      );
      const tracked: Promise<void> = acquiring.finally(() => pending.delete(tracked));
      pending.add(tracked);
      if (random() < 0.2) setImmediate(() => controller.abort());
    } else if (dice < 0.8) {
      leases.splice(Math.floor(random() * leases.length), 1)[0]?.release();
    } else if (dice < 0.83) {
      residency.evict(pick(digests));
    } else if (dice < 0.85) {
      failing.add(pick(digests));
    } else {
      await nextTurn();
      residency.checkIntegrity();
      for (const { weights } of leases) assert.ok(loader.live.has(weights.digest), 'leased weights are not freed');
    }
  }
  while (pending.size > 0) {
    for (const lease of leases.splice(0)) lease.release();
    await nextTurn();
  }
  for (const lease of leases.splice(0)) lease.release();
  residency.checkIntegrity();
  assert.ok(granted > 2000, `only ${granted} leases were granted`);
  assert.ok(loader.mostBytes <= 4 * COST, `${loader.mostBytes} bytes were allocated of ${4 * COST}`);
  assert.ok(residency.stats().evictions > 500);
  await residency.close();
  assert.equal(loader.live.size, 0);
});
