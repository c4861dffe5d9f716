/** Uploads that PUT /v1/masks/:task refuses, as early as what is wrong with them shows. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request, type IncomingMessage } from 'node:http';
import { after, before, describe, it } from 'node:test';
import { encodeMaskSet } from '../../../codec/encode.js';
import { randomMask } from '../../bench/random-mask.js';
import { refusal, sampleMask, startRealServer, type RealServer } from './real-server.js';

describe('/v1/masks refuses an upload', () => {
  let server: RealServer;
  let one: { bytes: Uint8Array; digest: string };

  before(async () => {
    server = await startRealServer({ config: { maxMaskBytes: 4 * 2 ** 20 } });
    one = sampleMask(server, 1);
  });
  after(() => server.close());

  async function list(): Promise<{ shipped: boolean }[]> {
    const { data } = (await (await server.get('/v1/masks')).json()) as { data: { shipped: boolean }[] };
    return data.filter(({ shipped }) => !shipped);
  }

  it('that is no mask, or a damaged one', async () => {
    const damaged = one.bytes.slice();
    damaged[damaged.length - 10] = (damaged[damaged.length - 10] as number) ^ 1;
    for (const bytes of [new Uint8Array(0), Buffer.from('no mask'), one.bytes.slice(0, 500), damaged]) {
      const error = await refusal(await server.publish('french', bytes));
      assert.deepEqual([error.status, error.code], [400, 'invalid_mask']);
    }
    assert.deepEqual(await list(), []);
  });

  it('for another base', async () => {
    const foreign = encodeMaskSet({ ...randomMask(server.model, 1), base: 'a'.repeat(64) });
    const error = await refusal(await server.publish('french', foreign));
    assert.deepEqual([error.status, error.code], [400, 'wrong_base']);
  });

  it('under a name that is none, or reserved', async () => {
    const named = await refusal(await server.publish('No%20Name', one.bytes));
    assert.equal(named.code, 'invalid_task_name');
    assert.equal((await refusal(await server.publish('dense', one.bytes))).code, 'reserved_task');
  });

  it('as a form, as JSON or compressed', async () => {
    for (const [name, value] of [
      ['Content-Type', 'multipart/form-data; boundary=x'],
      ['Content-Type', 'application/json'],
      ['Content-Encoding', 'gzip'],
    ] as const) {
      const error = await refusal(await server.publish('french', one.bytes, { [name]: value }));
      assert.deepEqual([error.status, error.code], [415, 'unsupported_media_type']);
    }
  });

  it('that is announced as too large, or no container from its first bytes on', async () => {
    const bytes = new Uint8Array(5 * 2 ** 20);
    const announced = await refusal(await server.publish('french', bytes));
    assert.deepEqual([announced.status, announced.code], [413, 'body_too_large']);
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        for (let i = 0; i < 5; i++) controller.enqueue(new Uint8Array(2 ** 20));
        controller.close();
      },
    });
    const response = await server.get('/v1/masks/french', { method: 'PUT', body, duplex: 'half' } as RequestInit);
    assert.deepEqual([response.status, (await refusal(response)).code], [400, 'invalid_mask']);
  });

  it('by its first bytes, while the rest has not been sent', async () => {
    const foreign = encodeMaskSet({ ...randomMask(server.model, 1), base: 'f'.repeat(64) });
    const outgoing = request(`${server.url}/v1/masks/french`, {
      method: 'PUT',
      headers: { 'Content-Length': foreign.length },
    });
    outgoing.on('error', () => undefined);
    outgoing.write(foreign.subarray(0, 200));
    const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
    const body = Buffer.concat((await response.toArray()) as Buffer[]).toString();
    assert.equal(response.statusCode, 400);
    assert.match(body, /"code":"wrong_base"/);
    outgoing.destroy();
  });

  it('before it is sent, where the client waits for 100 Continue', async () => {
    const put = async (
      headers: Record<string, string>,
    ): Promise<{ status: number | undefined; continued: boolean }> => {
      const outgoing = request(`${server.url}/v1/masks/french`, {
        method: 'PUT',
        headers: { Expect: '100-continue', 'Content-Length': one.bytes.length, ...headers },
      });
      let continued = false;
      outgoing.on('continue', () => {
        continued = true;
        outgoing.end(one.bytes);
      });
      outgoing.flushHeaders();
      const [response] = (await once(outgoing, 'response')) as [{ statusCode?: number; resume(): void }];
      response.resume();
      outgoing.destroy();
      return { status: response.statusCode, continued };
    };
    assert.deepEqual(await put({ 'If-Match': '*' }), { status: 412, continued: false });
    assert.deepEqual(await put({}), { status: 201, continued: true });
  });
});
