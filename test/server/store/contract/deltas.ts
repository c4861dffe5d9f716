/** Masks that are coded against their parent: what they need to come in, and what may not go while they are there. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeMaskSet } from '../../../../codec/decode.js';
import { bytesOf, publish, refusal } from '../registry-calls.js';
import type { OpenHarness } from '../registry-contract.js';
import { chainOf, childOf, rootMember } from '../sample-deltas.js';
import { digestOf } from '../sample-masks.js';

export function deltas(start: OpenHarness): void {
  const general = rootMember(1);
  const french = childOf(general, 2);
  const german = childOf(general, 3);

  test('a delta whose parent is not there is refused, with the content digest that it needs, and leaves nothing', async () => {
    const { registry, leftovers } = await start();
    await assert.rejects(
      publish(registry, 'french', french.bytes),
      refusal('parent_unknown', new RegExp(`${general.content}.*publish the parent first`)),
    );
    assert.deepEqual(await leftovers(), []);
  });

  test('a delta is stored as it came, beside a parent in any encoding', async () => {
    const { registry } = await start();
    const [child, grandchild] = [childOf(general, 5), childOf(childOf(general, 5), 6)];
    await publish(registry, 'general', general.bytes);
    const { digest } = await publish(registry, 'child', child.flat);
    await publish(registry, 'grandchild', grandchild.bytes);
    assert.notEqual(digest, digestOf(child.bytes));
    assert.deepEqual(await bytesOf(registry, digestOf(grandchild.bytes)), Buffer.from(grandchild.bytes));
    const record = await registry.get('grandchild');
    assert.deepEqual(record.blob.needs, { parent: child.content, weights: false });
    assert.equal(record.blob.content, grandchild.content);
    assert.equal(
      record.blob.parameters,
      general.set.masks.reduce((sum, { rows, cols }) => sum + rows * cols, 0),
    );
  });

  test('a delta of a shipped mask is taken', async () => {
    const { registry } = await start({ general: general.bytes });
    await publish(registry, 'french', french.bytes);
    assert.equal((await registry.resolve('french')).content, french.content);
  });

  test('a shipped delta is served beside its shipped parent, and flattens', async () => {
    const { registry } = await start({ general: general.bytes, a: french.bytes });
    assert.equal((await registry.resolve('a')).content, french.content);
    assert.deepEqual(decodeMaskSet(await registry.flatten(digestOf(french.bytes))).masks, french.set.masks);
  });

  test('a damaged delta is refused as any other container', async () => {
    const { registry, leftovers } = await start();
    await publish(registry, 'general', general.bytes);
    const before = await leftovers();
    const damaged = french.bytes.slice();
    damaged[damaged.length - 3]! ^= 4;
    await assert.rejects(publish(registry, 'french', damaged), refusal('invalid_mask', /chunk-checksum/));
    assert.deepEqual(await leftovers(), before);
  });

  test('a parent can’t be deleted while deltas of others stand on it, and they are named', async () => {
    const { registry } = await start();
    await publish(registry, 'general', general.bytes);
    await publish(registry, 'french', french.bytes);
    await publish(registry, 'german', german.bytes);
    await assert.rejects(registry.remove('general', {}), refusal('parent_needed', /"french", "german" have some/));
    await registry.remove('french', {});
    await assert.rejects(registry.remove('general', {}), refusal('parent_needed', /"german" has some/));
    assert.deepEqual(await bytesOf(registry, digestOf(general.bytes)), Buffer.from(general.bytes));
    await registry.remove('german', {});
    await registry.remove('general', {});
    assert.deepEqual(await registry.list(), []);
  });

  test('a parent may go when its content is there in another container, or the child flattened', async () => {
    const { registry } = await start();
    await publish(registry, 'general', general.bytes);
    await publish(registry, 'copy', general.bytes);
    await publish(registry, 'french', french.bytes);
    await registry.remove('general', {});
    assert.equal((await registry.lineage(digestOf(french.bytes))).length, 2);
    await registry.remove('french', {});
    await publish(registry, 'french', french.flat);
    await registry.remove('copy', {});
    assert.equal((await registry.resolve('french')).content, french.content);
  });

  test('containers that stand on each other in a circle don’t keep each other', async () => {
    const { registry } = await start();
    const back = childOf(french, 9);
    await publish(registry, 'general', general.bytes);
    await publish(registry, 'french', french.bytes);
    await publish(registry, 'back', back.bytes);
    const flatFrench = await publish(registry, 'flat-french', french.flat);
    await registry.remove('french', {});
    assert.equal((await registry.resolve('back')).content, back.content);
    await assert.rejects(registry.remove('flat-french', {}), refusal('parent_needed', /"back" has some/));
    assert.equal((await registry.resolve('flat-french')).digest, flatFrench.digest);
  });

  test('a task’s own deltas go with it', async () => {
    const { registry, leftovers } = await start();
    await publish(registry, 'french', general.bytes);
    await publish(registry, 'french', french.bytes);
    await registry.remove('french', {});
    assert.deepEqual(await leftovers(), []);
  });

  test('rolling back to and from a delta keeps what it stands on', async () => {
    const { registry } = await start();
    await publish(registry, 'general', general.bytes);
    await publish(registry, 'french', german.flat);
    await publish(registry, 'french', french.bytes);
    await registry.rollback('french', {});
    await assert.rejects(registry.remove('general', {}), refusal('parent_needed', /"french"/));
    await registry.rollback('french', { to: digestOf(french.bytes) });
    assert.equal((await registry.resolve('french')).digest, digestOf(french.bytes));
  });

  test('a chain may have eight sets, and no more', async () => {
    const { registry } = await start();
    const chain = chainOf(9, 20);
    for (const [i, { bytes }] of chain.slice(0, 8).entries()) await publish(registry, `generation-${i}`, bytes);
    assert.equal((await registry.lineage(digestOf(chain[7]!.bytes))).length, 8);
    await assert.rejects(publish(registry, 'generation-8', chain[8]!.bytes), refusal('invalid_mask', /chain-too-deep/));
    await assert.rejects(
      registry.remove('generation-3', {}),
      refusal('parent_needed', /"generation-4".*"generation-7"/),
    );
    await publish(registry, 'generation-8', chain[8]!.flat);
    await publish(registry, 'generation-7', chain[7]!.flat);
    assert.deepEqual(decodeMaskSet(await registry.flatten(digestOf(chain[7]!.bytes))).masks, chain[7]!.set.masks);
  });

  test('a flattened delta has the same content and needs nothing', async () => {
    const { registry } = await start();
    await publish(registry, 'general', general.bytes);
    await publish(registry, 'french', french.bytes);
    const flat = await registry.flatten(digestOf(french.bytes));
    assert.deepEqual(decodeMaskSet(flat).masks, french.set.masks);
    assert.equal((await publish(registry, 'flat', flat)).created, true);
    assert.equal((await registry.resolve('flat')).content, french.content);
  });

  test('a delta outlives a restart, and a damaged parent is told from a damaged child', async () => {
    const harness = await start();
    await publish(harness.registry, 'general', general.bytes);
    await publish(harness.registry, 'french', french.bytes);
    await harness.damage(digestOf(general.bytes));
    const registry = await harness.reopen();
    assert.equal((await registry.resolve('french')).content, french.content);
    await assert.rejects(
      registry.lineage(digestOf(french.bytes)),
      refusal('mask_corrupt', new RegExp(general.content)),
    );
    await assert.rejects(registry.resolve('french'), refusal('mask_corrupt', /publish that again/));
    await assert.rejects(publish(registry, 'german', german.bytes), refusal('parent_unknown'));
    // Any container of the content will do.
    await publish(registry, 'general', general.bytes);
    assert.equal((await registry.lineage(digestOf(french.bytes))).length, 2);
    assert.equal((await registry.resolve('french')).content, french.content);
  });

  test('publishing deltas while their parent is being removed leaves none without it', async () => {
    const { registry } = await start();
    for (let round = 0; round < 20; round++) {
      await publish(registry, 'general', general.bytes);
      const [child, removal] = await Promise.allSettled([
        publish(registry, 'french', french.bytes),
        registry.remove('general', {}),
      ]);
      if (child.status === 'fulfilled') {
        assert.equal((await registry.lineage(digestOf(french.bytes))).length, 2);
        await registry.remove('french', {});
      } else refusal('parent_unknown')(child.reason);
      if (removal.status === 'rejected') {
        refusal('parent_needed')(removal.reason);
        await registry.remove('general', {});
      }
    }
  });
}
