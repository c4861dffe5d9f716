/** A learned mask on its way into the store: a patch of its parent, or whole where the parent has gone meanwhile. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import type { ServerError } from '../../../server/errors.js';
import { publishLearned } from '../../../server/jobs/publish.js';
import type { JobRecord } from '../../../server/jobs/types.js';
import { maskTrainingDefaults } from '../../../server/trainer/defaults.js';
import { publish } from '../store/registry-calls.js';
import { chainOf, childOf, rootMember } from '../store/sample-deltas.js';
import { digestOf } from '../store/sample-masks.js';
import { openTemporaryStore, type TemporaryStore } from '../store/temporary-store.js';

const general = rootMember(1);
const french = childOf(general, 2);
const learned = { flat: french.flat, patch: french.bytes };
const MAX_BYTES = 1 << 20;

let store: TemporaryStore;
beforeEach(async () => (store = await openTemporaryStore()));
afterEach(() => store.destroy());

function finishedJob(precondition?: JobRecord['precondition']): JobRecord {
  const finished = {
    ...({ type: 'finished', task: 'french', heldOut: [], step: 1, changed: 0.02 } as const),
    ...{ bitsPerParameter: 0.04, publishable: true, seconds: 1 },
  };
  return {
    id: '0123456789abcdef',
    order: { task: 'french', sources: [], guards: [], settings: maskTrainingDefaults('ste', true), force: false },
    ...(precondition === undefined ? {} : { precondition }),
    ...({ state: 'running', createdAt: 1, crashes: 0, progress: { looks: [], finished } } as const),
  };
}

test('beside its parent it is stored as a patch, and the parent can not go any more', async () => {
  const { registry } = store;
  await publish(registry, 'general', general.bytes);
  const result = await publishLearned(registry, finishedJob(), learned, MAX_BYTES);
  assert.deepEqual(result, { digest: digestOf(french.bytes), bytes: french.bytes.length, created: true });
  await assert.rejects(registry.remove('general', {}), ({ code }: ServerError) => code === 'parent_needed');
});

test('without its parent it is stored whole, and says why', async () => {
  const { registry } = store;
  await publish(registry, 'general', general.bytes);
  await registry.remove('general', {});
  const { flattened, ...result } = await publishLearned(registry, finishedJob(), learned, MAX_BYTES);
  assert.deepEqual(result, { digest: digestOf(french.flat), bytes: french.flat.length, created: true });
  assert.match(flattened ?? '', new RegExp(general.content));
  assert.equal((await registry.resolve('french')).content, french.content);
});

test('at the end of the longest chain it is stored whole too', async () => {
  const { registry } = store;
  const chain = chainOf(8, 20);
  for (const [i, { bytes }] of chain.entries()) await publish(registry, `link${i}`, bytes);
  const ninth = childOf(chain[7]!, 40);
  const result = await publishLearned(registry, finishedJob(), { flat: ninth.flat, patch: ninth.bytes }, MAX_BYTES);
  assert.equal(result.digest, digestOf(ninth.flat));
});

test('published a second time it is what it was, as a patch or whole', async () => {
  const { registry } = store;
  const job = finishedJob({ absent: true });
  const whole = await publishLearned(registry, job, learned, MAX_BYTES);
  const again = await publishLearned(registry, job, learned, MAX_BYTES);
  assert.deepEqual(again, { digest: whole.digest, bytes: whole.bytes, created: false });
  await publish(registry, 'general', general.bytes);
  await registry.remove('french', {});
  const patch = await publishLearned(registry, job, learned, MAX_BYTES);
  assert.equal(patch.digest, digestOf(french.bytes));
  assert.equal((await publishLearned(registry, job, learned, MAX_BYTES)).digest, patch.digest);
});

test('what is wrong with the mask itself, or expected of its task, is still an error', async () => {
  const { registry } = store;
  await publish(registry, 'french', general.bytes);
  await assert.rejects(
    publishLearned(registry, finishedJob({ absent: true }), learned, MAX_BYTES),
    ({ code }: ServerError) => code === 'precondition_failed',
  );
  const damaged = { flat: french.flat.slice(0, -1), patch: french.bytes.slice(0, -1) };
  await assert.rejects(
    publishLearned(registry, finishedJob(), damaged, MAX_BYTES),
    ({ code }: ServerError) => code === 'invalid_mask',
  );
});
