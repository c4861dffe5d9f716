/** Patched and warm tasks in the resident cache: what they cost, what holds what, what goes first. Over a loader that tests drive. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Digest } from '../../../codec/mask-set.js';
import { NO_BUFFER } from '../../../kernels/handle.js';
import { ServerError } from '../../../server/errors.js';
import { createResidency, type CheckedResidency } from '../../../server/store/residency.js';
import type { Lease, LoadEvent, Tier } from '../../../server/store/types.js';
import { FakeLoader, fakeRegistry } from './fake-loader.js';
import { BASE, randomFrom } from './sample-masks.js';

/** A matrix whose compacted form takes 900 bytes, and its nibbles 100. */
const MODEL = { base: BASE, maskable: [{ name: 'w', rows: 20, cols: 40, weight: NO_BUFFER }] };
const COST = 900;
const PATCH = 20;

interface Fixture {
  readonly residency: CheckedResidency;
  readonly loader: FakeLoader;
  readonly events: LoadEvent[];
}

/** Tasks `p.x` are children of `p`, patched in 20 bytes; those that end in `!` have too many changes. */
function make(budgetBytes: number, warmBytes = 0, waitMs = 2_000): Fixture {
  const loader = new FakeLoader(
    () => COST,
    true,
    (digest) => (digest.endsWith('!') ? undefined : PATCH),
  );
  const parentOf = (digest: Digest): Digest | undefined => /^(.+)\.[^.]+$/.exec(digest)?.[1];
  const registry = fakeRegistry(undefined, parentOf);
  const residency = createResidency({ budgetBytes, warmBytes, model: MODEL, registry, loader, waitMs });
  const events: LoadEvent[] = [];
  residency.onLoad((event) => events.push(event));
  return { residency, loader, events };
}

async function use(residency: CheckedResidency, ...digests: Digest[]): Promise<void> {
  for (const digest of digests) (await residency.acquire(digest)).release();
}

async function settle(): Promise<void> {
  for (let i = 0; i < 10; i++) await nextTurn();
}

function tiers({ residency }: Fixture): Record<Digest, Tier> {
  return Object.fromEntries([...residency.stats().tasks].map(([digest, { tier }]) => [digest, tier]));
}

test('a child is patched onto its parent, which is brought in first, and costs its patches', async () => {
  const fixture = make(2 * COST);
  const { residency, loader, events } = fixture;
  const child = await residency.acquire('general.french');
  assert.deepEqual(tiers(fixture), { general: 'resident', 'general.french': 'patched' });
  assert.deepEqual(loader.begun, ['general']);
  assert.equal(child.weights.bytes, PATCH);
  assert.equal(residency.stats().residentBytes, COST + PATCH);
  assert.deepEqual(
    events.map(({ digest, from, to }) => [digest, from, to]),
    [
      ['general', 'cold', 'resident'],
      ['general.french', 'cold', 'patched'],
    ],
  );
  child.release();
  residency.checkIntegrity();
});

test('many children share one parent in the room of one task', async () => {
  const { residency, loader } = make(COST + 200);
  await use(residency, 'g.a', 'g.b', 'g.c', 'g.d', 'g.a', 'g.b');
  assert.deepEqual(loader.begun, ['g']);
  const { found, hits, misses, residentBytes } = residency.stats();
  assert.deepEqual(found, { resident: 0, patched: 2, warm: 0, cold: 4 });
  assert.deepEqual([hits, misses, residentBytes], [2, 4, COST + 4 * PATCH]);
  residency.checkIntegrity();
});

test('a parent is not evicted under its children, and goes after them', async () => {
  const fixture = make(2 * COST + 150);
  const { residency, loader } = fixture;
  await use(residency, 'g.a', 'g.b', 'x');
  await use(residency, 'g.a', 'g.b');
  // x is the least recently used: the family stays.
  await use(residency, 'y');
  assert.deepEqual(tiers(fixture), { g: 'resident', 'g.a': 'patched', 'g.b': 'patched', y: 'resident' });
  // Then the family goes, children first.
  await use(residency, 'y');
  await use(residency, 'z');
  await use(residency, 'y', 'z', 'v');
  assert.ok(!loader.live.has('g.a') && !loader.live.has('g.b') && !loader.live.has('g'));
  residency.checkIntegrity();
});

test('a parent that is evicted by name stays until its last child has gone', async () => {
  const fixture = make(2 * COST);
  const { residency, loader } = fixture;
  const child = await residency.acquire('g.a');
  residency.evict('g');
  assert.ok(loader.live.has('g'));
  residency.evict('g.a');
  assert.ok(loader.live.has('g') && loader.live.has('g.a'));
  residency.checkIntegrity();
  child.release();
  assert.equal(loader.live.size, 0);
  residency.checkIntegrity();
});

test('a child with too many changes gets a copy of its own, and its parent is not asked for again', async () => {
  const fixture = make(3 * COST);
  const { residency, loader } = fixture;
  await use(residency, 'g.a!');
  assert.equal(tiers(fixture)['g.a!'], 'resident');
  residency.evict('g.a!');
  residency.evict('g');
  await use(residency, 'g.a!');
  assert.deepEqual(loader.begun, ['g', 'g.a!', 'g.a!']);
  residency.checkIntegrity();
});

test('a child in memory that holds one copy only gets that copy', async () => {
  const fixture = make(COST);
  await use(fixture.residency, 'g.a');
  assert.deepEqual(tiers(fixture), { 'g.a': 'resident' });
  fixture.residency.checkIntegrity();
});

test('beside one copy, a child is patched in whatever room the budget leaves, if its changes fit there', async () => {
  const fitting = make(COST + PATCH);
  await use(fitting.residency, 'g.a', 'g.b');
  assert.deepEqual(tiers(fitting), { g: 'resident', 'g.b': 'patched' });
  assert.deepEqual(fitting.loader.begun, ['g']);
  fitting.residency.checkIntegrity();
  const short = make(COST + PATCH - 1);
  await use(short.residency, 'g.a');
  assert.deepEqual(tiers(short), { 'g.a': 'resident' });
  short.residency.checkIntegrity();
});

test('a grandchild is patched onto the ancestor that has matrices of its own', async () => {
  const fixture = make(2 * COST);
  const { residency, loader } = fixture;
  await use(residency, 'g.a', 'g.a.b');
  assert.deepEqual(loader.begun, ['g']);
  assert.deepEqual([...loader.parents], [['g.a', 'g'], ['g.a.b', 'g']]); // prettier-ignore
  residency.checkIntegrity();
});

test('two sets that name each other as parents are both served', async () => {
  const loader = new FakeLoader(() => COST, true, () => PATCH); // prettier-ignore
  const registry = fakeRegistry(undefined, (digest) => (digest === 'a' ? 'b' : 'a'));
  const residency = createResidency({ budgetBytes: 4 * COST, model: MODEL, registry, loader });
  const leases = await Promise.all(['a', 'b', 'a'].map((digest) => residency.acquire(digest)));
  for (const lease of leases) lease.release();
  residency.checkIntegrity();
  await residency.close();
  assert.equal(loader.live.size, 0);
});

test('children of different parents that hold each other’s room all get in, one after the other', async () => {
  const { residency } = make(2 * COST + 30, 0, 20_000);
  const leases = await Promise.all(
    ['p.a', 'q.a'].map(async (digest) => {
      const lease = await residency.acquire(digest);
      await nextTurn();
      lease.release();
    }),
  );
  assert.equal(leases.length, 2);
  residency.checkIntegrity();
});

test('an evicted copy is kept as nibbles, and comes back without its container', async () => {
  const fixture = make(COST, 250);
  const { residency, loader, events } = fixture;
  await use(residency, 'a', 'b');
  await settle();
  assert.deepEqual(tiers(fixture), { a: 'warm', b: 'resident' });
  assert.deepEqual([residency.stats().warmBytes, residency.stats().warmBudgetBytes], [100, 250]);
  await use(residency, 'a');
  assert.deepEqual([loader.begun, loader.compacted], [['a', 'b'], ['a']]);
  assert.deepEqual(residency.stats().found, { resident: 0, patched: 0, warm: 1, cold: 2 });
  assert.deepEqual([events.at(-1)?.from, events.at(-1)?.to], ['warm', 'resident']);
  await settle();
  assert.deepEqual(tiers(fixture), { b: 'warm', a: 'resident' });
  residency.checkIntegrity();
});

test('the warm tier holds its budget, the last evicted stay, and nothing of a deleted task', async () => {
  const fixture = make(COST, 250);
  const { residency, loader } = fixture;
  await use(residency, 'a', 'b', 'c', 'd');
  await settle();
  assert.deepEqual(tiers(fixture), { b: 'warm', c: 'warm', d: 'resident' });
  residency.evict('c');
  residency.evict('d');
  await settle();
  assert.deepEqual(tiers(fixture), { b: 'warm' });
  await residency.close();
  assert.deepEqual([loader.live.size, loader.decoded.size], [0, 0]);
});

test('a load that fails from warm leaves the nibbles there', async () => {
  const { residency, loader } = make(COST, 250);
  await use(residency, 'a', 'b');
  await settle();
  const failing = residency.acquire('a');
  await nextTurn();
  if (loader.live.has('a')) loader.fail('a', new ServerError('out_of_memory', 'made to fail'));
  await failing.then(
    (lease) => lease.release(),
    () => undefined,
  );
  await settle();
  assert.equal(residency.stats().tasks.has('a'), true);
  residency.checkIntegrity();
});

test('thousands of random acquires of families, with evictions and aborts, keep the books balanced', async () => {
  const random = randomFrom(20261124);
  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)]!;
  const digests = ['g', 'g.a', 'g.b', 'g.c', 'g.a.x', 'h', 'h.a', 'h.b!', 'h.b!.y', 'i', 'j'];
  const { residency, loader } = make(3 * COST + 100, 350, 1e6);
  const leases: Lease[] = [];
  const pending = new Set<Promise<void>>();
  for (let i = 0; i < 6_000; i++) {
    const dice = random();
    if (dice < 0.4) {
      const controller = new AbortController();
      const acquiring = residency.acquire(pick(digests), controller.signal).then(
        (lease) => {
          assert.ok(loader.live.has(lease.weights.digest));
          const parent = loader.parents.get(lease.weights.digest);
          if (lease.weights.patches) assert.ok(parent !== undefined && loader.live.has(parent));
          leases.push(lease);
        },
        (error: unknown) => assert.match(String(error), /abort/i),
      );
      pending.add(acquiring);
      void acquiring.then(() => pending.delete(acquiring));
      if (random() < 0.1) controller.abort();
    } else if (dice < 0.85 && leases.length > 0) {
      leases.splice(Math.floor(random() * leases.length), 1)[0]!.release();
    } else if (dice < 0.9) residency.evict(pick(digests));
    else await nextTurn();
    if (i % 50 === 0) residency.checkIntegrity();
    while (leases.length > 8) leases.shift()!.release();
  }
  while (pending.size > 0) {
    for (const lease of leases.splice(0)) lease.release();
    await nextTurn();
  }
  for (const lease of leases.splice(0)) lease.release();
  await settle();
  residency.checkIntegrity();
  await residency.close();
  assert.deepEqual([loader.live.size, loader.decoded.size, loader.parents.size], [0, 0, 0]);
  assert.ok(loader.mostBytes <= 3 * COST + 100, `${loader.mostBytes} bytes`);
});
