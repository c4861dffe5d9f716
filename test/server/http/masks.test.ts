import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { request } from 'node:http';
import { after, afterEach, before, describe, it } from 'node:test';
import { eventually, refusal, sampleMask, startRealServer, type RealServer } from './real-server.js';

interface Mask {
  task: string;
  digest: string;
  base: string;
  parent: string | null;
  bytes: number;
  parameters: number;
  bits_per_parameter: number;
  shipped: boolean;
  published_at: string;
  versions: number;
  created?: boolean;
}

describe('/v1/masks', () => {
  let server: RealServer;
  let one: { bytes: Uint8Array; digest: string };
  let two: { bytes: Uint8Array; digest: string };

  before(async () => {
    server = await startRealServer({ config: { maxMaskBytes: 4 * 2 ** 20 } });
    one = sampleMask(server, 1);
    two = sampleMask(server, 2);
  });
  after(() => server.close());
  afterEach(async () => {
    for (const { task } of await list()) await server.get(`/v1/masks/${task}`, { method: 'DELETE' });
  });

  async function list(): Promise<Mask[]> {
    const { data } = (await (await server.get('/v1/masks')).json()) as { data: Mask[] };
    return data.filter((mask) => !mask.shipped);
  }

  const headersOf = (digest: string): [string, string][] => [
    ['etag', `"${digest}"`],
    ['x-mask-digest', digest],
  ];

  function assertHeaders(response: Response, expected: [string, string][]): void {
    for (const [name, value] of expected) assert.equal(response.headers.get(name), value, name);
  }

  it('publishes a new task with 201, a new version with 200', async () => {
    const created = await server.publish('french', one.bytes);
    assert.equal(created.status, 201);
    assert.equal(created.headers.get('location'), '/v1/masks/french');
    assertHeaders(created, headersOf(one.digest));
    const mask = (await created.json()) as Mask;
    assert.equal(mask.task, 'french');
    assert.equal(mask.digest, one.digest);
    assert.equal(mask.base, server.model.base);
    assert.equal(mask.bytes, one.bytes.length);
    assert.equal(mask.created, true);
    assert.ok(Math.abs(mask.bits_per_parameter - (8 * one.bytes.length) / mask.parameters) < 1e-12);
    assert.ok(Math.abs(Date.parse(mask.published_at) - Date.now()) < 60_000);
    const updated = await server.publish('french', two.bytes);
    assert.equal(updated.status, 200);
    assert.equal(((await updated.json()) as Mask).versions, 2);
  });

  it('gives back the bytes it was given, to GET and HEAD', async () => {
    await server.publish('french', one.bytes);
    const response = await server.get('/v1/masks/french');
    assertHeaders(response, [
      ...headersOf(one.digest),
      ['content-type', 'application/octet-stream'],
      ['content-length', String(one.bytes.length)],
      ['content-disposition', 'attachment; filename="french.mask"'],
      ['repr-digest', `sha-256=:${Buffer.from(one.digest, 'hex').toString('base64')}:`],
    ]);
    assert.deepEqual(new Uint8Array(await response.arrayBuffer()), one.bytes);
    const head = await server.get('/v1/masks/french', { method: 'HEAD' });
    assertHeaders(head, [...headersOf(one.digest), ['content-length', String(one.bytes.length)]]);
    assert.equal((await head.arrayBuffer()).byteLength, 0);
  });

  it('tells of a mask as JSON if asked, and lists all', async () => {
    await server.publish('french', one.bytes);
    await server.publish('c', two.bytes);
    const asked = await server.get('/v1/masks/french', { headers: { Accept: 'application/json' } });
    assert.equal(((await asked.json()) as Mask).digest, one.digest);
    assert.deepEqual(
      (await list()).map(({ task, digest }) => [task, digest]),
      [
        ['c', two.digest],
        ['french', one.digest],
      ],
    );
  });

  describe('sends ranges', () => {
    const range = (value: string, more: Record<string, string> = {}): Promise<Response> =>
      server.get('/v1/masks/french', { headers: { Range: value, ...more } });

    it('of its bytes', async () => {
      await server.publish('french', one.bytes);
      const length = one.bytes.length;
      for (const [value, start, end] of [
        ['bytes=0-9', 0, 9],
        ['bytes=100-', 100, length - 1],
        ['bytes=-7', length - 7, length - 1],
        [`bytes=${length - 1}-${length + 10}`, length - 1, length - 1],
      ] as const) {
        const response = await range(value);
        assert.equal(response.status, 206);
        assert.equal(response.headers.get('content-range'), `bytes ${start}-${end}/${length}`);
        assert.deepEqual(new Uint8Array(await response.arrayBuffer()), one.bytes.slice(start, end + 1));
      }
    });

    it('only of what they were asked for by If-Range', async () => {
      await server.publish('french', one.bytes);
      assert.equal((await range('bytes=0-9', { 'If-Range': `"${one.digest}"` })).status, 206);
      assert.equal((await range('bytes=0-9', { 'If-Range': `"${two.digest}"` })).status, 200);
    });

    it('not from beyond the end, and the whole for what it does not understand', async () => {
      await server.publish('french', one.bytes);
      const beyond = await range(`bytes=${one.bytes.length}-`);
      assert.equal(beyond.headers.get('content-range'), `bytes */${one.bytes.length}`);
      assert.equal((await refusal(beyond)).status, 416);
      for (const value of ['bytes=0-1,5-6', 'lines=1-2', 'bytes=-', 'bytes=9-1']) {
        assert.equal((await range(value)).status, 200);
      }
    });
  });

  describe('compares and sets', () => {
    it('with If-None-Match: *, only what is new', async () => {
      assert.equal((await server.publish('french', one.bytes, { 'If-None-Match': '*' })).status, 201);
      const again = await refusal(await server.publish('french', two.bytes, { 'If-None-Match': '*' }));
      assert.deepEqual([again.status, again.code, again.param], [412, 'precondition_failed', 'If-None-Match']);
      assert.match(again.message, new RegExp(one.digest));
    });

    it('with If-Match, only what was looked at', async () => {
      const absent = await refusal(await server.publish('french', one.bytes, { 'If-Match': '*' }));
      assert.equal(absent.status, 412);
      await server.publish('french', one.bytes);
      const stale = await refusal(await server.publish('french', two.bytes, { 'If-Match': `"${two.digest}"` }));
      assert.equal(stale.status, 412);
      const weak = await server.publish('french', two.bytes, { 'If-Match': `W/"${one.digest}"` });
      assert.equal(weak.status, 412);
      for (const tag of [`"${one.digest}"`, `"x", "sha256:${one.digest}"`, '*']) {
        const response = await server.publish('french', two.bytes, { 'If-Match': tag });
        assert.equal(response.status, 200, tag);
        await server.publish('french', one.bytes);
      }
    });

    it('for one of many at the same time', async () => {
      await server.publish('french', one.bytes);
      const answers = await Promise.all(
        [3, 4, 5, 6].map((seed) =>
          server.publish('french', sampleMask(server, seed).bytes, { 'If-Match': `"${one.digest}"` }),
        ),
      );
      assert.deepEqual(answers.map((response) => response.status).sort(), [200, 412, 412, 412]);
    });

    it('not by what it can’t read', async () => {
      const error = await refusal(await server.publish('french', one.bytes, { 'If-Match': one.digest }));
      assert.deepEqual([error.status, error.code, error.param], [400, 'invalid_header', 'If-Match']);
    });

    it('and answers 304 to who has the current version', async () => {
      await server.publish('french', one.bytes);
      const headers = { 'If-None-Match': `W/"${one.digest}"` };
      const response = await server.get('/v1/masks/french', { headers });
      assert.equal(response.status, 304);
      assertHeaders(response, headersOf(one.digest));
      const other = await server.get('/v1/masks/french', { headers: { 'If-None-Match': `"${two.digest}"` } });
      assert.equal(other.status, 200);
    });
  });

  describe('checks a declared digest', () => {
    const field = (bytes: Uint8Array): string => `sha-256=:${createHash('sha256').update(bytes).digest('base64')}:`;

    for (const name of ['Repr-Digest', 'Content-Digest']) {
      it(`of ${name}`, async () => {
        const good = await server.publish('french', one.bytes, { [name]: `sha-512=:AAAA:, ${field(one.bytes)}` });
        assert.equal(good.status, 201);
        const error = await refusal(await server.publish('french', two.bytes, { [name]: field(one.bytes) }));
        assert.deepEqual([error.status, error.code], [400, 'digest_mismatch']);
        assert.equal((await list())[0]?.digest, one.digest);
      });
    }

    it('and refuses one that it can’t read, or two that differ', async () => {
      const unreadable = await refusal(await server.publish('french', one.bytes, { 'Repr-Digest': 'sha-256=abc' }));
      assert.equal(unreadable.code, 'invalid_header');
      const short = await refusal(await server.publish('french', one.bytes, { 'Repr-Digest': 'sha-256=:AAAA:' }));
      assert.equal(short.code, 'invalid_header');
      const headers = { 'Repr-Digest': field(one.bytes), 'Content-Digest': field(two.bytes) };
      assert.equal((await refusal(await server.publish('french', one.bytes, headers))).code, 'digest_mismatch');
    });
  });

  it('publishes nothing of an upload that breaks off', async () => {
    const outgoing = request(`${server.url}/v1/masks/french`, {
      method: 'PUT',
      headers: { 'Content-Length': one.bytes.length },
    });
    outgoing.on('error', () => undefined);
    outgoing.write(one.bytes.slice(0, 100_000));
    await new Promise((resolve) => setTimeout(resolve, 50));
    outgoing.destroy();
    await eventually('it was noticed', async () => {
      const text = await (await server.get('/metrics')).text();
      return /http_requests_total\{route="\/v1\/masks\/:task",method="PUT",status="499"\} 1/.test(text);
    });
    assert.deepEqual(await list(), []);
    assert.equal((await server.publish('french', one.bytes)).status, 201);
  });

  it('tells versions, rolls back and forth', async () => {
    await server.publish('french', one.bytes);
    await server.publish('french', two.bytes);
    const versions = async (): Promise<[string, boolean][]> => {
      const body = (await (await server.get('/v1/masks/french/versions')).json()) as {
        data: { digest: string; current: boolean }[];
      };
      return body.data.map(({ digest, current }) => [digest, current]);
    };
    assert.deepEqual(await versions(), [
      [two.digest, true],
      [one.digest, false],
    ]);
    const stale = await server.post('/v1/masks/french/rollback', {}, { 'If-Match': `"${one.digest}"` });
    assert.equal(stale.status, 412);
    const back = await server.post('/v1/masks/french/rollback', {}, { 'If-Match': `"${two.digest}"` });
    assert.equal(((await back.json()) as Mask).digest, one.digest);
    assert.deepEqual(await versions(), [
      [two.digest, false],
      [one.digest, true],
    ]);
    const forth = await server.post('/v1/masks/french/rollback', { to: `sha256:${two.digest}` });
    assert.equal(((await forth.json()) as Mask).digest, two.digest);
    const unknown = await refusal(await server.post('/v1/masks/french/rollback', { to: 'f'.repeat(64) }));
    assert.deepEqual([unknown.status, unknown.code], [404, 'version_not_found']);
    const unreadable = await refusal(await server.post('/v1/masks/french/rollback', { to: 'x' }));
    assert.deepEqual([unreadable.code, unreadable.param], ['invalid_request', 'to']);
  });

  it('rolls back without a body', async () => {
    await server.publish('french', one.bytes);
    await server.publish('french', two.bytes);
    const response = await server.get('/v1/masks/french/rollback', { method: 'POST' });
    assert.equal(((await response.json()) as Mask).digest, one.digest);
  });

  it('gives an old version by its digest, cacheable for good', async () => {
    await server.publish('french', one.bytes);
    await server.publish('french', two.bytes);
    const response = await server.get(`/v1/masks/french@sha256:${one.digest}`);
    assert.deepEqual(new Uint8Array(await response.arrayBuffer()), one.bytes);
    assert.match(response.headers.get('cache-control') ?? '', /immutable/);
  });

  it('answers for a mask that can’t be read any more with an error, not with headers of a mask', async () => {
    const lost = sampleMask(server, 9);
    await server.publish('lost', lost.bytes);
    await rm(await server.registry.path(lost.digest));
    const response = await server.get('/v1/masks/lost');
    for (const name of ['etag', 'repr-digest', 'content-disposition', 'accept-ranges', 'cache-control']) {
      assert.equal(response.headers.get(name), null, name);
    }
    assert.match(response.headers.get('content-type') ?? '', /^application\/json/);
    const { status, message } = await refusal(response);
    assert.ok(status >= 400 && message.length > 0);
  });

  it('deletes a task, its versions and its memory', async () => {
    await server.publish('french', one.bytes);
    await server.post('/v1/completions', { prompt: 'a', max_tokens: 1 }, { 'X-Task': 'french' });
    const resident = server.residency.stats().residentBytes;
    const stale = await server.get('/v1/masks/french', {
      method: 'DELETE',
      headers: { 'If-Match': `"${two.digest}"` },
    });
    assert.equal(stale.status, 412);
    assert.equal((await server.get('/v1/masks/french', { method: 'DELETE' })).status, 204);
    assert.ok(server.residency.stats().residentBytes < resident);
    for (const [method, path] of [
      ['DELETE', ''],
      ['GET', ''],
      ['GET', '/versions'],
      ['POST', '/rollback'],
    ]) {
      const error = await refusal(await server.get(`/v1/masks/french${path}`, { method: method as string }));
      assert.deepEqual([error.status, error.code], [404, 'task_not_found'], `${method} ${path}`);
    }
    const gone = await server.post('/v1/completions', { prompt: 'a', max_tokens: 1 }, { 'X-Task': 'french' });
    assert.equal(gone.status, 404);
  });

  it('keeps in memory what another task still stands for', async () => {
    await server.publish('french', one.bytes);
    await server.publish('francais', one.bytes);
    await server.post('/v1/completions', { prompt: 'a', max_tokens: 1 }, { 'X-Task': 'french' });
    await server.get('/v1/masks/french', { method: 'DELETE' });
    assert.equal(server.residency.stats().tasks.get(one.digest)?.tier, 'resident');
  });
});
