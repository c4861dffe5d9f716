/** What every registry must do, whatever it keeps its masks in. Run against each implementation. */
import assert from 'node:assert/strict';
import { after, afterEach, describe, test } from 'node:test';
import { Readable } from 'node:stream';
import type { Digest } from '../../../codec/mask-set.js';
import { ServerError, type ErrorCode } from '../../../server/errors.js';
import type { Precondition, Registry, RegistryEvent } from '../../../server/store/types.js';
import { digestOf, MATRICES, sampleContainer, type ContainerOptions } from './sample-masks.js';

/** One registry and the state under it. Containers whose last name went away are gone at once, without grace. */
export interface RegistryHarness {
  readonly registry: Registry;
  /** Closes the registry and opens its state again. */
  reopen(): Promise<Registry>;
  /** Changes one byte of a stored container behind the registry's back. */
  damage(digest: Digest): Promise<void>;
  /** Containers that take space, whether a version names them or not, and unfinished uploads. */
  leftovers(): Promise<readonly string[]>;
  destroy(): Promise<void>;
}

export type OpenHarness = (shipped?: Readonly<Record<string, Uint8Array>>) => Promise<RegistryHarness>;

const MAX_BYTES = 1 << 20;
const NOBODY: Digest = '0'.repeat(64);

export async function publish(
  registry: Registry,
  task: string,
  bytes: Uint8Array,
  precondition?: Precondition,
): Promise<{ digest: Digest; created: boolean }> {
  const { record, created } = await registry.publish(task, streamOf(bytes), { precondition, maxBytes: MAX_BYTES });
  return { digest: record.digest, created };
}

export async function bytesOf(registry: Registry, digest: Digest): Promise<Buffer> {
  const { stream } = await registry.read(digest);
  return Buffer.concat((await stream.toArray()) as Buffer[]);
}

/** The bytes in pieces of odd length, as a network brings them. */
export function streamOf(bytes: Uint8Array): Readable {
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += 777) pieces.push(bytes.subarray(at, at + 777));
  return Readable.from(pieces);
}

/** For assert.rejects: a ServerError of this code, with a sentence that matches. */
export function refusal(code: ErrorCode, sentence = /./): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof ServerError, `expected a ServerError ${code} but received ${String(error)}`);
    assert.equal(error.code, code, error.message);
    assert.match(error.message, sentence);
    return true;
  };
}

export function registryContract(name: string, openHarness: OpenHarness): void {
  describe(`registry contract: ${name}`, () => {
    const open: RegistryHarness[] = [];
    const start = async (shipped?: Readonly<Record<string, Uint8Array>>): Promise<RegistryHarness> => {
      const harness = await openHarness(shipped);
      open.push(harness);
      return harness;
    };
    const closeAll = async (): Promise<void> => {
      for (const harness of open.splice(0)) await harness.destroy();
    };
    afterEach(closeAll);
    after(closeAll);
    publishing(start);
    preconditions(start);
    refusals(start);
    versions(start);
    removal(start);
    shippedMasks(start);
    durability(start);
  });
}

type Start = OpenHarness;

function publishing(start: Start): void {
  test('a published mask is listed, resolved, described and read back byte for byte', async () => {
    const { registry } = await start();
    const bytes = sampleContainer(1, { parent: NOBODY });
    const { record, created } = await registry.publish('french', streamOf(bytes), { maxBytes: MAX_BYTES });
    const digest = digestOf(bytes);
    assert.equal(created, true);
    assert.deepEqual(await registry.list(), [record]);
    assert.deepEqual(await registry.get('french'), record);
    const { content, ...blob } = await registry.resolve('french');
    assert.match(content, /^[0-9a-f]{64}$/);
    assert.deepEqual(blob, {
      digest,
      bytes: bytes.length,
      base: 'ba5e'.repeat(16),
      parent: NOBODY,
      n: 2,
      m: 4,
      parameters: MATRICES.reduce((sum, { rows, cols }) => sum + rows * cols, 0),
    });
    assert.deepEqual(
      record.versions.map((version) => version.digest),
      [digest],
    );
    assert.equal(record.shipped, false);
    assert.deepEqual(await bytesOf(registry, digest), Buffer.from(bytes));
  });

  test('a range of a container is read with its last byte included', async () => {
    const { registry } = await start();
    const bytes = sampleContainer(1);
    const { digest } = await publish(registry, 'french', bytes);
    const { bytes: whole, stream } = await registry.read(digest, { start: 10, end: 19 });
    assert.equal(whole, bytes.length);
    assert.deepEqual(Buffer.concat((await stream.toArray()) as Buffer[]), Buffer.from(bytes.subarray(10, 20)));
  });

  test('a mask may cover some of the matrices only', async () => {
    const { registry } = await start();
    await publish(registry, 'part', sampleContainer(1, { matrices: MATRICES.slice(1, 2) }));
    assert.equal((await registry.resolve('part')).parameters, 64 * 32);
  });

  test('publishing what a task already serves changes nothing', async () => {
    const { registry } = await start();
    const bytes = sampleContainer(1);
    await publish(registry, 'french', bytes);
    const before = await registry.get('french');
    assert.equal((await publish(registry, 'french', bytes)).created, false);
    assert.deepEqual(await registry.get('french'), before);
  });

  test('listeners hear of every change until they unsubscribe', async () => {
    const { registry } = await start({ general: sampleContainer(9) });
    const events: RegistryEvent[] = [];
    const stop = registry.onChange((event) => events.push(event));
    const first = await publish(registry, 'general', sampleContainer(1));
    const second = await publish(registry, 'general', sampleContainer(2));
    await registry.rollback('general', {});
    await registry.remove('general', {});
    const published = await publish(registry, 'french', sampleContainer(3));
    await registry.remove('french', {});
    stop();
    await publish(registry, 'french', sampleContainer(4));
    assert.deepEqual(events, [
      { task: 'general', digest: first.digest },
      { task: 'general', digest: second.digest },
      { task: 'general', digest: first.digest },
      { task: 'general', digest: digestOf(sampleContainer(9)) },
      { task: 'french', digest: published.digest },
      { task: 'french', digest: undefined },
    ]);
  });
}

function preconditions(start: Start): void {
  test('a publish that expects another digest is refused with both digests', async () => {
    const { registry } = await start();
    const { digest } = await publish(registry, 'french', sampleContainer(1));
    const late = publish(registry, 'french', sampleContainer(2), { match: NOBODY });
    await assert.rejects(late, refusal('precondition_failed', new RegExp(`${NOBODY}.*${digest}`)));
    assert.equal((await registry.resolve('french')).digest, digest);
    await publish(registry, 'french', sampleContainer(2), { match: digest });
    assert.equal((await registry.resolve('french')).digest, digestOf(sampleContainer(2)));
  });

  test('a publish that expects no task is refused if there is one, also a shipped one', async () => {
    const { registry } = await start({ general: sampleContainer(9) });
    const absent = { absent: true } as const;
    await publish(registry, 'french', sampleContainer(1), absent);
    await assert.rejects(publish(registry, 'french', sampleContainer(2), absent), refusal('precondition_failed'));
    await assert.rejects(publish(registry, 'general', sampleContainer(2), absent), refusal('precondition_failed'));
    await publish(registry, 'general', sampleContainer(2), { match: digestOf(sampleContainer(9)) });
  });

  test('a publish that expects a digest is refused if there is no such task', async () => {
    const { registry } = await start();
    const publishing = publish(registry, 'french', sampleContainer(1), { match: NOBODY });
    await assert.rejects(publishing, refusal('precondition_failed', /no such task/));
  });

  test('of many publishes at once that expect the same digest exactly one wins', async () => {
    const { registry } = await start();
    const { digest } = await publish(registry, 'french', sampleContainer(0));
    const seeds = [1, 2, 3, 4, 5, 6, 7, 8];
    const outcomes = await Promise.allSettled(
      seeds.map((seed) => publish(registry, 'french', sampleContainer(seed), { match: digest })),
    );
    const won = outcomes.filter((outcome) => outcome.status === 'fulfilled');
    const lost = outcomes.filter((outcome) => outcome.status === 'rejected');
    assert.equal(won.length, 1);
    for (const { reason } of lost) refusal('precondition_failed')(reason);
    const record = await registry.get('french');
    assert.deepEqual(
      record.versions.map((version) => version.digest),
      [won[0]?.value.digest, digest],
    );
  });

  test('of many publishes at once that expect no task exactly one wins', async () => {
    const { registry } = await start();
    const outcomes = await Promise.allSettled(
      [1, 2, 3, 4, 5].map((seed) => publish(registry, 'new', sampleContainer(seed), { absent: true })),
    );
    assert.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 1);
    assert.equal((await registry.get('new')).versions.length, 1);
  });

  test('publishes at once without a precondition all become versions', async () => {
    const { registry } = await start();
    const seeds = [1, 2, 3, 4, 5, 6];
    await Promise.all(seeds.map((seed) => publish(registry, 'french', sampleContainer(seed))));
    const { versions, digest } = await registry.get('french');
    assert.deepEqual(
      versions.map((version) => version.digest).sort(),
      seeds.map((seed) => digestOf(sampleContainer(seed))).sort(),
    );
    assert.equal(versions[0]?.digest, digest);
    const times = versions.map(({ publishedAt }) => publishedAt);
    assert.deepEqual(
      times,
      [...new Set(times)].sort((a, b) => b - a),
      'newest first, no two at the same time',
    );
  });

  test('rollback and removal honour preconditions', async () => {
    const { registry } = await start();
    await publish(registry, 'french', sampleContainer(1));
    const { digest } = await publish(registry, 'french', sampleContainer(2));
    await assert.rejects(
      registry.rollback('french', { precondition: { match: NOBODY } }),
      refusal('precondition_failed'),
    );
    await assert.rejects(
      registry.remove('french', { precondition: { match: NOBODY } }),
      refusal('precondition_failed'),
    );
    await registry.rollback('french', { precondition: { match: digest } });
    await registry.remove('french', { precondition: { match: digestOf(sampleContainer(1)) } });
    assert.deepEqual(await registry.list(), []);
  });
}

function refusals(start: Start): void {
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
    const stream = streamOf(new Uint8Array(5000));
    await assert.rejects(
      registry.publish('french', stream, { maxBytes: 1000 }),
      refusal('body_too_large', /at most 1000 bytes/),
    );
    assert.equal(stream.destroyed, false);
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

function versions(start: Start): void {
  test('versions are kept newest first and each can be resolved by name@digest', async () => {
    const { registry } = await start();
    const digests: Digest[] = [];
    for (const seed of [1, 2, 3]) digests.unshift((await publish(registry, 'french', sampleContainer(seed))).digest);
    const record = await registry.get('french');
    assert.deepEqual(
      record.versions.map((version) => version.digest),
      digests,
    );
    for (const digest of digests) assert.equal((await registry.resolve('french', digest)).digest, digest);
    await publish(registry, 'german', sampleContainer(4));
    await assert.rejects(
      registry.resolve('french', digestOf(sampleContainer(4))),
      refusal('version_not_found', /"french"/),
    );
  });

  test('rollback goes to the version before, then to the one before that, and then there is none', async () => {
    const { registry } = await start();
    for (const seed of [1, 2, 3]) await publish(registry, 'french', sampleContainer(seed));
    assert.equal((await registry.rollback('french', {})).digest, digestOf(sampleContainer(2)));
    assert.equal((await registry.rollback('french', {})).digest, digestOf(sampleContainer(1)));
    await assert.rejects(registry.rollback('french', {}), refusal('version_not_found', /no earlier version/));
    const record = await registry.get('french');
    assert.deepEqual(
      record.versions.map((version) => version.digest),
      [3, 2, 1].map((seed) => digestOf(sampleContainer(seed))),
      'a rollback forgets nothing',
    );
    assert.deepEqual(await bytesOf(registry, record.digest), Buffer.from(sampleContainer(1)));
  });

  test('rollback to a named version, forward too', async () => {
    const { registry } = await start();
    for (const seed of [1, 2, 3]) await publish(registry, 'french', sampleContainer(seed));
    await registry.rollback('french', { to: digestOf(sampleContainer(1)) });
    await registry.rollback('french', { to: digestOf(sampleContainer(3)) });
    assert.equal((await registry.resolve('french')).digest, digestOf(sampleContainer(3)));
    await assert.rejects(registry.rollback('french', { to: NOBODY }), refusal('version_not_found'));
  });

  test('rollback after a rollback and a new version goes to what was served before, not to what was rolled back', async () => {
    const { registry } = await start();
    const [good, bad, worse] = [1, 2, 3].map((seed) => sampleContainer(seed));
    await publish(registry, 'french', good!);
    await publish(registry, 'french', bad!);
    await registry.rollback('french', {});
    await publish(registry, 'french', worse!);
    assert.equal((await registry.rollback('french', {})).digest, digestOf(good!));
  });

  test('publishing an older version again puts it on top, once', async () => {
    const { registry } = await start();
    for (const seed of [1, 2, 1]) await publish(registry, 'french', sampleContainer(seed));
    const { versions, digest } = await registry.get('french');
    assert.deepEqual(
      versions.map((version) => version.digest),
      [1, 2].map((seed) => digestOf(sampleContainer(seed))),
    );
    assert.equal(digest, digestOf(sampleContainer(1)));
  });
}

function removal(start: Start): void {
  test('a removed task is gone with its versions and their containers', async () => {
    const { registry, leftovers } = await start();
    for (const seed of [1, 2]) await publish(registry, 'french', sampleContainer(seed));
    await registry.remove('french', {});
    await assert.rejects(registry.resolve('french'), refusal('task_not_found'));
    await assert.rejects(registry.read(digestOf(sampleContainer(1))), refusal('version_not_found'));
    assert.deepEqual(await leftovers(), []);
  });

  test('a container that another task names outlives a removal', async () => {
    const { registry } = await start();
    const { digest } = await publish(registry, 'french', sampleContainer(1));
    await publish(registry, 'francais', sampleContainer(1));
    await registry.remove('french', {});
    assert.deepEqual(await bytesOf(registry, digest), Buffer.from(sampleContainer(1)));
  });

  test('a download that has begun is not cut by a removal', async () => {
    const { registry } = await start();
    const { digest } = await publish(registry, 'french', sampleContainer(1));
    const { stream } = await registry.read(digest);
    await registry.remove('french', {});
    assert.deepEqual(Buffer.concat((await stream.toArray()) as Buffer[]), Buffer.from(sampleContainer(1)));
  });

  test('publishing and removing the same container under two names at once loses neither', async () => {
    const { registry } = await start();
    const bytes = sampleContainer(1);
    await publish(registry, 'a', bytes);
    for (let round = 0; round < 20; round++) {
      const [add, remove] = round % 2 === 0 ? ['b', 'a'] : ['a', 'b'];
      await Promise.all([publish(registry, add!, bytes), registry.remove(remove!, {})]);
      assert.deepEqual(await bytesOf(registry, digestOf(bytes)), Buffer.from(bytes));
    }
  });
}

function shippedMasks(start: Start): void {
  const shipped = { general: sampleContainer(9) };
  const shippedDigest = digestOf(shipped.general);

  test('a shipped mask is a task from the start, and read-only', async () => {
    const { registry } = await start(shipped);
    const record = await registry.get('general');
    assert.equal(record.shipped, true);
    assert.equal(record.digest, shippedDigest);
    assert.deepEqual(await bytesOf(registry, shippedDigest), Buffer.from(shipped.general));
    await assert.rejects(registry.remove('general', {}), refusal('read_only_task', /"general"/));
    await assert.rejects(registry.rollback('general', {}), refusal('version_not_found'));
    assert.equal((await registry.list()).length, 1);
  });

  test('publishing under its name overrides it, removing that brings it back', async () => {
    const { registry } = await start(shipped);
    assert.equal((await publish(registry, 'general', sampleContainer(1))).created, false);
    const overridden = await registry.get('general');
    assert.equal(overridden.shipped, false);
    assert.deepEqual(
      overridden.versions.map((version) => version.digest),
      [digestOf(sampleContainer(1)), shippedDigest],
    );
    assert.equal((await registry.resolve('general', shippedDigest)).digest, shippedDigest);
    await registry.remove('general', {});
    assert.equal((await registry.get('general')).shipped, true);
    assert.deepEqual(await bytesOf(registry, shippedDigest), Buffer.from(shipped.general));
  });

  test('the first version published over it rolls back to it, and that lasts', async () => {
    const { registry, reopen } = await start(shipped);
    await publish(registry, 'general', sampleContainer(1));
    assert.equal((await registry.rollback('general', {})).digest, shippedDigest);
    await assert.rejects(registry.rollback('general', {}), refusal('version_not_found'));
    const again = await reopen();
    assert.equal((await again.resolve('general')).digest, shippedDigest);
    assert.deepEqual(await bytesOf(again, shippedDigest), Buffer.from(shipped.general));
    await again.rollback('general', { to: digestOf(sampleContainer(1)) });
  });

  test('a shipped mask that is damaged, for another base or misnamed is left out; the others are served', async () => {
    const damaged = sampleContainer(1).slice();
    damaged[damaged.length - 5]! ^= 1;
    const { registry } = await start({
      ...shipped,
      french: damaged,
      german: sampleContainer(2, { base: NOBODY }),
      dense: sampleContainer(3),
      Upper: sampleContainer(4),
    });
    assert.deepEqual(
      (await registry.list()).map(({ task }) => task),
      ['general'],
    );
    await publish(registry, 'french', sampleContainer(5));
  });
}

function durability(start: Start): void {
  test('everything is as it was after reopening', async () => {
    const { registry, reopen } = await start({ general: sampleContainer(9) });
    for (const seed of [1, 2, 3]) await publish(registry, 'french', sampleContainer(seed));
    await registry.rollback('french', {});
    await publish(registry, 'gone', sampleContainer(4));
    await publish(registry, 'general', sampleContainer(5));
    await registry.remove('gone', {});
    const before = await registry.list();
    const again = await reopen();
    assert.deepEqual(await again.list(), before);
    for (const { digest } of before.flatMap(({ versions }) => versions)) {
      assert.equal(digestOf(await bytesOf(again, digest)), digest);
    }
    assert.equal((await again.rollback('french', {})).digest, digestOf(sampleContainer(1)));
  });

  test('a damaged container is never served; publishing it again heals it, other tasks go on', async () => {
    const { registry, reopen, damage } = await start();
    const { digest } = await publish(registry, 'french', sampleContainer(1));
    await publish(registry, 'german', sampleContainer(2));
    await damage(digest);
    let again = await reopen();
    await assert.rejects(again.path(digest), refusal('mask_corrupt', /publish it again/));
    await assert.rejects(again.read(digest), refusal('mask_corrupt'));
    await assert.rejects(again.resolve('french'), refusal('mask_corrupt'));
    assert.match(again.quarantined().get(digest) ?? '', /sha256/);
    assert.equal((await again.resolve('german')).digest, digestOf(sampleContainer(2)));

    again = await reopen();
    await assert.rejects(again.resolve('french'), refusal('mask_corrupt', /sha256/), 'the reason outlives a restart');
    await publish(again, 'french', sampleContainer(1));
    assert.deepEqual(await bytesOf(again, digest), Buffer.from(sampleContainer(1)));
    assert.equal(again.quarantined().size, 0);
  });

  test('a task is not rolled back onto a damaged version', async () => {
    const { registry, reopen, damage } = await start();
    const { digest } = await publish(registry, 'french', sampleContainer(1));
    const current = await publish(registry, 'french', sampleContainer(2));
    await damage(digest);
    const again = await reopen();
    await assert.rejects(again.rollback('french', {}), refusal('mask_corrupt'));
    assert.equal((await again.resolve('french')).digest, current.digest);
  });

  test('a closed registry takes no changes', async () => {
    const { registry } = await start();
    await registry.close();
    await assert.rejects(publish(registry, 'french', sampleContainer(1)), refusal('shutting_down'));
    await assert.rejects(registry.remove('french', {}), refusal('shutting_down'));
  });
}

function container(options: ContainerOptions): Uint8Array {
  return sampleContainer(1, options);
}
