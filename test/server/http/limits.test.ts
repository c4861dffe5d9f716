import assert from 'node:assert/strict';
import { request as httpRequest } from 'node:http';
import { connect, type Socket } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { ServerError } from '../../../server/errors.js';
import { eventually, refusal, sampleMask, startRealServer, type RealServer } from './real-server.js';
import { delta, done, prompt, startScriptedApp, type Script } from './scripted-app.js';

/** Everything that a raw connection says until it is closed. */
async function conversation(url: string, write: (socket: Socket) => void): Promise<string> {
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  let text = '';
  socket.on('data', (data: Buffer) => (text += data.toString()));
  socket.on('error', () => undefined);
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  write(socket);
  await closed;
  return text;
}

describe('limits', () => {
  let server: RealServer;
  before(async () => {
    server = await startRealServer({
      config: { maxBodyBytes: 2000 },
      limits: { headers: 300, jsonBody: 200, uploadWindow: 200, uploadBytes: 1000, linger: 200 },
    });
  });
  after(() => server.close());

  it('refuse a body that is too large, announced or not', async () => {
    const body = JSON.stringify({ prompt: 'a'.repeat(3000) });
    const announced = await refusal(await server.post('/v1/completions', body));
    assert.deepEqual([announced.status, announced.code], [413, 'body_too_large']);
    const chunked = new Blob([body]).stream();
    const response = await server.get('/v1/completions', {
      method: 'POST',
      body: chunked,
      duplex: 'half',
    } as RequestInit);
    assert.deepEqual([response.status, (await refusal(response)).code], [413, 'body_too_large']);
  });

  it('close a connection whose headers never end', async () => {
    const text = await conversation(server.url, (socket) => {
      socket.write('GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Slow: ');
      const drip = setInterval(() => socket.write('a'), 20);
      socket.once('close', () => clearInterval(drip));
    });
    assert.match(text, /^HTTP\/1\.1 408 /);
  });

  it('answer 408 to a body that never ends, and close', async () => {
    const text = await conversation(server.url, (socket) => {
      socket.write('POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{"prompt": "');
      const drip = setInterval(() => socket.write('a'), 20);
      socket.once('close', () => clearInterval(drip));
    });
    assert.match(text, /^HTTP\/1\.1 408 [^]*"code":"request_timeout"/);
  });

  it('answer 408 to an upload that trickles, but take a slow one', async () => {
    const { bytes } = sampleMask(server, 1);
    const head = `PUT /v1/masks/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${bytes.length}\r\n\r\n`;
    const trickle = await conversation(server.url, (socket) => {
      socket.write(head);
      const drip = setInterval(() => socket.write('a'), 20);
      socket.once('close', () => clearInterval(drip));
    });
    assert.match(trickle, /^HTTP\/1\.1 408 [^]*"code":"request_timeout"/);
    const slow = await new Promise<number | undefined>((resolve, reject) => {
      const outgoing = httpRequest(`${server.url}/v1/masks/slow`, { method: 'PUT' }, (response) => {
        response.resume();
        resolve(response.statusCode);
      });
      outgoing.on('error', reject);
      void (async () => {
        for (let at = 0; at < bytes.length; at += 40_000) {
          outgoing.write(bytes.subarray(at, at + 40_000));
          await delay(60);
        }
        outgoing.end();
      })();
    });
    assert.equal(slow, 201);
  });

  it('send the answer to a refused upload though the client is still sending', async () => {
    const text = await conversation(server.url, (socket) => {
      socket.write('PUT /v1/masks/x HTTP/1.1\r\nHost: localhost\r\nIf-Match: *\r\nContent-Length: 1000000\r\n\r\n');
      const flood = setInterval(() => socket.write(Buffer.alloc(50_000)), 5);
      socket.once('close', () => clearInterval(flood));
    });
    assert.match(text, /^HTTP\/1\.1 412 [^]*"code":"precondition_failed"/);
  });
});

describe('the queue', () => {
  const full = (): ServerError => new ServerError('queue_full', 'the queue is full', { retryAfterSeconds: 2 });

  it('refuses with 429 and Retry-After when it is full, before a stream begins too', async () => {
    const server = await startRealServer({ config: { maxRunning: 1, maxQueue: 1 } });
    try {
      const long = { prompt: 'a', max_tokens: 1000, ignore_eos: true, stream: true };
      const controller = new AbortController();
      const streams = [0, 1].map(() =>
        fetch(`${server.url}/v1/completions`, {
          method: 'POST',
          body: JSON.stringify(long),
          signal: controller.signal,
        }),
      );
      streams.forEach((stream) => stream.then((response) => response.text()).catch(() => undefined));
      await eventually('one runs, one waits', () => {
        const { running, waiting } = server.engine.stats();
        return running === 1 && waiting === 1;
      });
      for (const stream of [true, false]) {
        const response = await server.post('/v1/completions', { prompt: 'a', stream });
        assert.equal(response.headers.get('retry-after'), '2');
        assert.equal(response.headers.get('x-should-retry'), 'true');
        const error = await refusal(response);
        assert.deepEqual([error.status, error.code, error.type], [429, 'queue_full', 'rate_limit_error']);
      }
      controller.abort();
      await eventually('the queue is empty', () => server.engine.stats().running === 0);
      assert.equal((await server.post('/v1/completions', { prompt: 'a' })).status, 200);
    } finally {
      await server.close();
    }
  });

  it('takes a batch that is larger than itself, part by part', async () => {
    const server = await startRealServer({ config: { maxRunning: 2, maxQueue: 1 } });
    try {
      const prompts = Array.from({ length: 20 }, (_, i) => [i + 3]);
      const response = await server.post('/v1/completions', {
        prompt: prompts,
        max_tokens: 2,
        temperature: 0,
        echo: true,
      });
      assert.equal(response.status, 200, await response.clone().text());
      const { choices } = (await response.json()) as { choices: { index: number }[] };
      assert.deepEqual(
        choices.map((choice) => choice.index),
        prompts.map((_, i) => i),
      );
    } finally {
      await server.close();
    }
  });

  it('has no more sequences of one request than its share', async () => {
    let most = 0;
    let now = 0;
    const script: Script = async function* () {
      most = Math.max(most, ++now);
      yield prompt();
      await delay(2);
      yield delta('x');
      now--;
      yield done();
    };
    const app = await startScriptedApp({ script, limits: { sequencesInFlight: 4 } });
    try {
      const body = JSON.stringify({ prompt: Array(30).fill('a') });
      assert.equal((await fetch(`${app.url}/v1/completions`, { method: 'POST', body })).status, 200);
      assert.equal(most, 4);
    } finally {
      await app.close();
    }
  });

  it('refuses a whole batch when it takes none of it, and tries the rest again when it took some', async () => {
    let free = 0;
    const script: Script = async function* () {
      if (free <= 0) throw full();
      free--;
      try {
        yield prompt();
        await delay(5);
        yield done();
      } finally {
        free++;
      }
    };
    const app = await startScriptedApp({ script });
    try {
      const post = (): Promise<Response> =>
        fetch(`${app.url}/v1/completions`, { method: 'POST', body: JSON.stringify({ prompt: Array(6).fill('a') }) });
      assert.equal((await refusal(await post())).code, 'queue_full');
      free = 2;
      assert.equal((await post()).status, 200);
      assert.equal(app.running(), 0);
    } finally {
      await app.close();
    }
  });
});
