/** What is refused, with which code, and that it leaves nothing behind. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Readable } from 'node:stream';
import type { ErrorCode } from '../../../../server/errors.js';
import { MAX_BYTES, NOBODY, publish, refusal, streamOf } from '../registry-calls.js';
import type { OpenHarness } from '../registry-contract.js';
import { childOf, rootMember } from '../sample-deltas.js';
import { digestOf, MATRICES, sampleContainer, type ContainerOptions } from '../sample-masks.js';

export function refusals(start: OpenHarness): void {
  const flipped = sampleContainer(1).slice();
  flipped[flipped.length - 5]! ^= 1;
  const foreign = [{ name: 'model.embed_tokens.weight', rows: 32, cols: 32 }];
  const transposed = [{ ...MATRICES[1]!, rows: 32, cols: 64 }];
  const cases: readonly [what: string, bytes: Uint8Array, code: ErrorCode, sentence: RegExp][] = [
    ['no container', Buffer.from('not a mask'), 'invalid_mask', /bad-magic/],
    ['nothing', new Uint8Array(0), 'invalid_mask', /./],
    ['a flipped bit', flipped, 'invalid_mask', /chunk-checksum/],
    ['a cut end', sampleContainer(1).subarray(0, -1), 'invalid_mask', /truncated/],
    ['trailing bytes', Buffer.concat([sampleContainer(1), Buffer.from([0])]), 'invalid_mask', /trailing-bytes/],
    ['another base', container({ base: NOBODY }), 'wrong_base', new RegExp(NOBODY.slice(0, 8))],
    [
      'a matrix that the model has not',
      container({ matrices: foreign }),
      'invalid_mask',
      /model\.embed_tokens\.weight/,
    ],
    ['a matrix of another shape', container({ matrices: transposed }), 'invalid_mask', /64x32.*32x64/],
    ['1:4 masks', container({ n: 1 }), 'invalid_mask', /expected a 2:4 mask set.*1:4/],
    ['4:8 masks', container({ n: 4, m: 8 }), 'invalid_mask', /4:8/],
  ];
  for (const [what, bytes, code, sentence] of cases) {
    test(`an upload with ${what} is refused (${code}) and leaves nothing`, async () => {
      const { registry, leftovers } = await start();
      await assert.rejects(publish(registry, 'french', bytes), refusal(code, sentence));
      await assert.rejects(registry.resolve('french'), refusal('task_not_found', /"french"/));
      assert.deepEqual(await leftovers(), []);
    });
  }

  test('an upload with other bytes than it declared is refused and leaves nothing', async () => {
    const { registry, leftovers } = await start();
    const bytes = sampleContainer(1);
    const publishing = registry.publish('french', streamOf(bytes), { expect: NOBODY, maxBytes: MAX_BYTES });
    await assert.rejects(publishing, refusal('digest_mismatch', new RegExp(`${NOBODY}.*${digestOf(bytes)}`)));
    assert.deepEqual(await leftovers(), []);
    await registry.publish('french', streamOf(bytes), { expect: digestOf(bytes), maxBytes: MAX_BYTES });
  });

  test('an upload above the limit is refused without reading on, and its stream is left for the answer', async () => {
    const { registry, leftovers } = await start();
    const stream = streamOf(sampleContainer(1));
    await assert.rejects(
      registry.publish('french', stream, { maxBytes: 500 }),
      refusal('body_too_large', /at most 500 bytes/),
    );
    assert.equal(stream.destroyed, false);
    assert.deepEqual(await leftovers(), []);
  });

  test('an upload that can not be taken is refused by its first bytes, before the rest has come', async () => {
    const { registry, leftovers } = await start();
    for (const [bytes, code, sentence] of [
      [Buffer.alloc(200, 'no mask '), 'invalid_mask', /bad-magic/],
      [container({ base: NOBODY }).subarray(0, 160), 'wrong_base', new RegExp(NOBODY.slice(0, 8))],
      [childOf(rootMember(1), 2).bytes.subarray(0, 160), 'parent_unknown', new RegExp(rootMember(1).content)],
      [container({ matrices: transposed }).subarray(0, 400), 'invalid_mask', /64x32.*32x64/],
      [container({ n: 1 }).subarray(0, 500), 'invalid_mask', /1:4/],
    ] as const) {
      const stalled = new Readable({ read: () => undefined });
      stalled.push(bytes);
      await assert.rejects(registry.publish('french', stalled, { maxBytes: MAX_BYTES }), refusal(code, sentence));
      assert.equal(stalled.destroyed, false);
    }
    assert.deepEqual(await leftovers(), []);
  });

  test('an upload whose sender goes away fails with that reason and leaves nothing', async () => {
    const { registry, leftovers } = await start();
    const gone = Readable.from(
      (async function* () {
        yield sampleContainer(1).subarray(0, 600);
        throw new Error('connection reset');
      })(),
    );
    await assert.rejects(registry.publish('french', gone, { maxBytes: MAX_BYTES }), /connection reset/);
    assert.deepEqual(await leftovers(), []);
  });

  test('names that are reserved or could be mistaken for something else are refused', async () => {
    const { registry } = await start();
    const bytes = sampleContainer(1);
    await assert.rejects(publish(registry, 'dense', bytes), refusal('reserved_task', /dense/));
    await assert.rejects(registry.rollback('dense', {}), refusal('reserved_task'));
    await assert.rejects(registry.remove('dense', {}), refusal('reserved_task'));
    for (const name of [
      '',
      '.',
      '..',
      '../x',
      'a/b',
      'a\\b',
      'a:b',
      'a@b',
      'A',
      'é',
      ' a',
      'a\n',
      '-a',
      'x'.repeat(65),
    ]) {
      await assert.rejects(publish(registry, name, bytes), refusal('invalid_task_name'), JSON.stringify(name));
      await assert.rejects(registry.resolve(name), refusal('invalid_task_name'), JSON.stringify(name));
      await assert.rejects(registry.get(name), refusal('invalid_task_name'), JSON.stringify(name));
      await assert.rejects(registry.rollback(name, {}), refusal('invalid_task_name'), JSON.stringify(name));
      await assert.rejects(registry.remove(name, {}), refusal('invalid_task_name'), JSON.stringify(name));
    }
    for (const name of ['a', '7b', 'fr_fr-2.1', 'a..b', 'constructor', 'x'.repeat(64)])
      await publish(registry, name, bytes);
    assert.equal((await registry.list()).length, 6);
  });

  test('what does not exist is not found', async () => {
    const { registry } = await start();
    await assert.rejects(registry.resolve('french'), refusal('task_not_found'));
    await assert.rejects(registry.get('__proto__'.replaceAll('_', 'x')), refusal('task_not_found'));
    await assert.rejects(registry.rollback('french', {}), refusal('task_not_found'));
    await assert.rejects(registry.remove('french', {}), refusal('task_not_found'));
    await assert.rejects(registry.read(NOBODY), refusal('version_not_found'));
    await assert.rejects(registry.path(NOBODY), refusal('version_not_found'));
  });
}

function container(options: ContainerOptions): Uint8Array {
  return sampleContainer(1, options);
}
