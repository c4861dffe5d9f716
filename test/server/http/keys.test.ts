import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { writeFile, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { after, before, describe, it } from 'node:test';
import { pino } from 'pino';
import { loadKeys, parseKeys } from '../../../server/http/keys.js';
import { refusal, sampleMask, startRealServer, type RealServer } from './real-server.js';
import { done, prompt, startScriptedApp } from './scripted-app.js';

const hash = (key: string): string => createHash('sha256').update(key).digest('hex');

const KEYS = {
  keys: [
    { name: 'ops', sha256: hash('k-ops'), scopes: ['admin'] },
    { name: 'team', sha256: hash('k-team'), scopes: ['infer:french', 'infer:dense', 'publish:french'] },
    { name: 'all', sha256: hash('k-all'), scopes: ['infer'] },
    { name: 'writer', sha256: hash('k-writer'), scopes: ['publish'] },
    { name: 'prom', sha256: hash('k-prom'), scopes: ['metrics'] },
  ],
};

describe('with keys', () => {
  let server: RealServer;
  let folder: string;
  let french: Uint8Array;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'maskserve-keys-'));
    const keysFile = join(folder, 'keys.json');
    await writeFile(keysFile, JSON.stringify(KEYS));
    server = await startRealServer({ config: { keysFile } });
    french = sampleMask(server, 1).bytes;
    for (const task of ['french', 'german']) {
      assert.equal((await server.publish(task, french, as('ops'))).status, 201);
    }
  });
  after(async () => {
    await server.close();
    await rm(folder, { recursive: true });
  });

  const as = (name: string): Record<string, string> => ({ Authorization: `Bearer k-${name}` });
  const infer = (name: string, task: string): Promise<Response> =>
    server.post('/v1/completions', { prompt: 'a', max_tokens: 1 }, { ...as(name), 'X-Task': task });

  it('nothing is served without one, or with an unknown one', async () => {
    for (const headers of [
      {},
      { Authorization: 'Bearer nope' },
      { Authorization: 'k-ops' },
      { Authorization: 'Basic k-ops' },
    ]) {
      for (const path of ['/v1/models', '/v1/masks', '/tokenizer_info', '/metrics', '/nowhere']) {
        const response = await server.get(path, { headers: headers as Record<string, string> });
        assert.equal(response.headers.get('www-authenticate'), 'Bearer');
        const error = await refusal(response);
        assert.deepEqual([error.status, error.code, error.type], [401, 'invalid_api_key', 'authentication_error']);
      }
    }
  });

  it('health and the API’s description are for everybody', async () => {
    for (const path of ['/healthz', '/readyz', '/openapi.json']) assert.equal((await server.get(path)).status, 200);
  });

  it('a task that a key may not use is like one that does not exist', async () => {
    assert.equal((await infer('team', 'french')).status, 200);
    const forbidden = await refusal(await infer('team', 'german'));
    const unknown = await refusal(await infer('all', 'german2'));
    assert.equal(forbidden.status, 404);
    assert.deepEqual({ ...forbidden, message: '' }, { ...unknown, message: '' });
    assert.equal(forbidden.message.replace('german', ''), unknown.message.replace('german2', ''));
    const masks = await refusal(await server.get('/v1/masks/german/versions', { headers: as('team') }));
    const unknownMasks = await refusal(await server.get('/v1/masks/german2/versions', { headers: as('team') }));
    assert.deepEqual({ ...masks, message: '' }, { ...unknownMasks, message: '' });
  });

  it('the default task is not for keys that may not use it', async () => {
    assert.equal((await server.post('/v1/completions', { prompt: 'a' }, as('writer'))).status, 404);
  });

  it('lists have what the key may see', async () => {
    const tasks = async (path: string, name: string): Promise<string[]> => {
      const { data } = (await (await server.get(path, { headers: as(name) })).json()) as { data: { task: string }[] };
      return data.map(({ task }) => task);
    };
    assert.deepEqual(await tasks('/v1/models', 'team'), ['dense', 'french']);
    assert.deepEqual(await tasks('/v1/models', 'all'), ['dense', 'french', 'german']);
    assert.deepEqual(await tasks('/v1/models', 'writer'), []);
    assert.deepEqual(await tasks('/v1/masks', 'team'), ['french']);
    assert.deepEqual(await tasks('/v1/masks', 'writer'), ['french', 'german']);
    assert.equal((await server.get('/v1/models/tiny%3Agerman', { headers: as('team') })).status, 404);
  });

  it('only keys that may publish do, and only admin deletes', async () => {
    const put = (name: string, task: string): Promise<Response> => server.publish(task, french, as(name));
    assert.equal((await put('team', 'french')).status, 200);
    assert.equal((await put('writer', 'german')).status, 200);
    for (const [name, task] of [
      ['team', 'german'],
      ['team', 'new'],
      ['all', 'french'],
      ['prom', 'french'],
    ] as const) {
      const error = await refusal(await put(name, task));
      assert.deepEqual([error.status, error.code], [403, 'permission_denied'], `${name} ${task}`);
    }
    const back = await server.post('/v1/masks/french/rollback', {}, as('all'));
    assert.equal((await refusal(back)).status, 403);
    const remove = (name: string, task: string): Promise<Response> =>
      server.get(`/v1/masks/${task}`, { method: 'DELETE', headers: as(name) });
    assert.equal((await refusal(await remove('writer', 'german'))).status, 403);
    assert.equal((await refusal(await remove('team', 'german'))).status, 404, 'it may not even see it');
    assert.equal((await remove('ops', 'german')).status, 204);
  });

  it('metrics need their scope', async () => {
    assert.equal((await refusal(await server.get('/metrics', { headers: as('all') }))).status, 403);
    for (const name of ['prom', 'ops']) assert.equal((await server.get('/metrics', { headers: as(name) })).status, 200);
  });
});

describe('a keys file', () => {
  const key = { name: 'a', sha256: hash('a'), scopes: ['infer'] };
  const cases: [title: string, json: unknown, message: RegExp][] = [
    ['without keys', {}, /expected \{"keys": .* with at least one key in f\.json/],
    ['with an empty list', { keys: [] }, /at least one key/],
    ['with a key that is none', { keys: ['x'] }, /expected an object for keys\[0\] of f\.json/],
    ['with a key without a name', { keys: [{ ...key, name: '' }] }, /expected a name for keys\[0\]/],
    ['with a name twice', { keys: [key, key] }, /"a" is there twice/],
    ['with a key in place of its hash', { keys: [{ ...key, sha256: 'secret' }] }, /64 hexadecimal digits .*sha256sum/],
    ['with no scopes', { keys: [{ ...key, scopes: [] }] }, /expected a list for scopes of keys\[0\]/],
    ['with an unknown scope', { keys: [{ ...key, scopes: ['root'] }] }, /infer, infer:TASK.* but found "root"/],
    ['with a scope for no task', { keys: [{ ...key, scopes: ['infer:'] }] }, /found "infer:"/],
  ];
  for (const [title, json, message] of cases) {
    it(`${title} is refused, saying where`, () => {
      assert.throws(() => parseKeys(json, 'f.json'), { message });
    });
  }

  it('that is no JSON, or not there, is refused by name', () => {
    assert.throws(() => loadKeys('/no/such/file.json'), { message: /keys file \/no\/such\/file\.json.*ENOENT/ });
  });

  it('finds each key and no other', () => {
    const ring = parseKeys(KEYS, 'f.json');
    assert.equal(ring.find('k-team')?.name, 'team');
    assert.equal(ring.find('k-team ')?.name, undefined);
    assert.equal(ring.find(hash('k-team')), undefined, 'a hash is no key');
  });
});

describe('the log', () => {
  it('has a line for each request, and never a prompt, a key or an answer', async () => {
    const lines: string[] = [];
    const sink = new Writable({
      write(chunk: Buffer, _encoding, next) {
        lines.push(chunk.toString());
        next();
      },
    });
    const app = await startScriptedApp({
      script: async function* (request) {
        yield prompt('PROMPT');
        if (request.prompt === 'PROMPT fail') throw new Error('broken');
        yield done();
      },
      log: pino({ level: 'trace' }, sink),
      options: { keys: parseKeys(KEYS, 'f.json') },
    });
    try {
      for (const body of [{ prompt: 'PROMPT' }, { prompt: 'PROMPT fail' }, { prompt: { no: 'PROMPT' } }]) {
        await fetch(`${app.url}/v1/completions?q=PROMPT`, {
          method: 'POST',
          headers: { Authorization: 'Bearer k-all', 'X-Request-Id': 'r1' },
          body: JSON.stringify(body),
        });
      }
    } finally {
      await app.close();
    }
    const records = lines.map(
      (line) => JSON.parse(line) as { route?: string; status?: number; id?: string; key?: string },
    );
    const requests = records.filter((record) => record.route === '/v1/completions');
    assert.deepEqual(
      requests.map(({ status, id, key }) => [status, id, key]),
      [
        [200, 'r1', 'all'],
        [500, 'r1', 'all'],
        [400, 'r1', 'all'],
      ],
    );
    assert.ok(
      lines.some((line) => line.includes('broken')),
      'a defect is logged with its reason',
    );
    assert.doesNotMatch(lines.join(''), /PROMPT|k-all/);
  });
});
