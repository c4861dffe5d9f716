/** /v1/train on the real server: who may train what, how much text a job may bring, and what watchers see when the server stops. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { gzipSync } from 'node:zlib';
import type { TrainJobJson } from '../../../server/http/train-response.js';
import { TINY } from '../../tiny.js';
import { ENDLESS, eventsOfJob, postJob, smallJob } from '../jobs/small-job.js';
import { refusal, startRealServer, type RealServer } from './real-server.js';

const GENERAL = readFileSync(join(TINY, 'masks', 'general.mask'));

describe('/v1/train with keys', () => {
  const folder = mkdtempSync(join(tmpdir(), 'maskserve-train-keys-'));
  const keysFile = join(folder, 'keys.json');
  const key = (name: string, ...scopes: string[]): object => {
    return { name, sha256: createHash('sha256').update(`k-${name}`).digest('hex'), scopes };
  };
  const keys = [key('ops', 'admin'), key('cats', 'publish:cats'), key('reader', 'infer'), key('writer', 'publish')];
  writeFileSync(keysFile, JSON.stringify({ keys }));
  const as = (name: string): Record<string, string> => ({ Authorization: `Bearer k-${name}` });
  let server: RealServer;
  before(async () => {
    server = await startRealServer({ config: { keysFile, trainThreads: 1 } });
    assert.equal((await server.publish('general', GENERAL, as('ops'))).status, 201);
  });
  after(async () => {
    await server.close();
    rmSync(folder, { recursive: true });
  });

  it('asks for the right to publish the task, before it reads the text where it can', async () => {
    const cases: [who: string, body: unknown, status: number, code: string][] = [
      ['reader', 'not even JSON', 403, 'permission_denied'],
      ['cats', smallJob('dogs'), 403, 'permission_denied'],
      ['cats', smallJob('cats', {}, { from: 'general' }), 404, 'task_not_found'],
    ];
    for (const [who, body, status, code] of cases) {
      const error = await refusal(await server.post('/v1/train', body, as(who)));
      assert.deepEqual([error.status, error.code], [status, code], who);
    }
    assert.equal((await server.post('/v1/train', smallJob('cats'))).status, 401);
  });

  it('shows a job to those who may publish its task, and to no one else', async () => {
    const response = await server.post('/v1/train', smallJob('cats', ENDLESS), as('cats'));
    assert.equal(response.status, 202);
    const { id } = (await response.json()) as TrainJobJson;
    const count = async (who: string): Promise<number> => {
      const { data } = (await (await server.get('/v1/train', { headers: as(who) })).json()) as { data: unknown[] };
      return data.length;
    };
    assert.deepEqual([await count('cats'), await count('writer'), await count('reader')], [1, 1, 0]);
    for (const [path, method] of [
      ['', 'GET'],
      ['/events', 'GET'],
      ['', 'DELETE'],
    ] as const) {
      const error = await refusal(await server.get(`/v1/train/${id}${path}`, { method, headers: as('reader') }));
      assert.deepEqual([error.status, error.code], [404, 'job_not_found'], method + path);
    }
    assert.equal((await server.get(`/v1/train/${id}`, { method: 'DELETE', headers: as('cats') })).status, 200);
  });
});

describe('/v1/train with a small limit', () => {
  let server: RealServer;
  before(async () => (server = await startRealServer({ config: { maxTrainBytes: 1000 } })));
  after(() => server.close());

  it('refuses more text than --max-train-bytes, announced or not, zipped or not', async () => {
    const body = JSON.stringify(smallJob('x'));
    const unannounced = new ReadableStream({
      start(controller) {
        controller.enqueue(new TextEncoder().encode(body));
        controller.close();
      },
    });
    const bodies: RequestInit[] = [
      { body },
      { body: unannounced, duplex: 'half' } as RequestInit,
      { body: gzipSync(body), headers: { 'Content-Encoding': 'gzip' } },
    ];
    for (const init of bodies) {
      const { status, code, message } = await refusal(await server.get('/v1/train', { method: 'POST', ...init }));
      assert.deepEqual([status, code], [413, 'body_too_large']);
      assert.match(message, /at most 1000 bytes.*--max-train-bytes/);
    }
  });

  it('ends a watcher’s stream with an error when it stops, for the job goes on later', async () => {
    const own = await startRealServer();
    const job = await postJob(own.url, smallJob('x', ENDLESS));
    const events = eventsOfJob(own.url, job.id);
    await events.next();
    const rest = (async () => {
      const seen: unknown[] = [];
      for await (const event of events) seen.push(event);
      return seen;
    })();
    const closed = own.close();
    await assert.rejects(rest, /before \[DONE\]/);
    await closed;
  });
});
