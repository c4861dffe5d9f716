import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { after, before, describe, it } from 'node:test';
import { ServerError } from '../../../server/errors.js';
import { eventsOf, eventually, refusal, startRealServer, type RealServer } from './real-server.js';
import { delta, done, prompt, startScriptedApp, untilAborted, type Script } from './scripted-app.js';

interface Chunk {
  choices: { index: number; text: string; finish_reason: string | null; logprobs: { tokens: string[] } | null }[];
  usage?: { total_tokens: number } | null;
}

const chunksOf = (text: string): Chunk[] =>
  eventsOf(text)
    .filter((data) => data !== '[DONE]')
    .map((data) => JSON.parse(data) as Chunk);

const textOf = (chunks: readonly Chunk[], index: number): string =>
  chunks
    .flatMap((chunk) => chunk.choices)
    .filter((choice) => choice.index === index)
    .map((choice) => choice.text)
    .join('');

describe('a stream of the real server', () => {
  let server: RealServer;
  before(async () => {
    server = await startRealServer();
  });
  after(() => server.close());

  async function stream(body: object): Promise<string> {
    const response = await server.post('/v1/completions', { ...body, stream: true });
    assert.equal(response.status, 200);
    assert.equal(response.headers.get('content-type'), 'text/event-stream; charset=utf-8');
    return response.text();
  }

  it('is data blocks and a last [DONE], and nothing else', async () => {
    const text = await stream({ prompt: 'The', max_tokens: 4, temperature: 0 });
    const blocks = text.split('\n\n');
    assert.equal(blocks.pop(), '');
    assert.ok(blocks.every((block) => /^data: \S/.test(block) && !block.includes('\n')));
    assert.equal(blocks.pop(), 'data: [DONE]');
    assert.ok(blocks.every((block) => !('usage' in (JSON.parse(block.slice(6)) as object))));
  });

  it('says what the whole answer says, for every choice', async () => {
    const body = { prompt: ['The', 'int'], n: 2, max_tokens: 12, temperature: 1, seed: 3, echo: true };
    const whole = (await (await server.post('/v1/completions', body)).json()) as Chunk;
    const chunks = chunksOf(await stream(body));
    for (const { index, text, finish_reason } of whole.choices) {
      assert.equal(textOf(chunks, index), text);
      const reasons = chunks
        .flatMap((chunk) => chunk.choices)
        .filter((choice) => choice.index === index && choice.finish_reason !== null);
      assert.deepEqual(
        reasons.map((choice) => choice.finish_reason),
        [finish_reason],
      );
    }
  });

  it('has the usage in a chunk of its own if asked, and null in the others', async () => {
    const body = { prompt: 'The', max_tokens: 4, temperature: 0 };
    const whole = (await (await server.post('/v1/completions', body)).json()) as Chunk;
    const chunks = chunksOf(await stream({ ...body, stream_options: { include_usage: true } }));
    const last = chunks.pop();
    assert.deepEqual(last?.choices, []);
    assert.deepEqual(last?.usage, whole.usage);
    assert.ok(chunks.every((chunk) => chunk.usage === null));
  });

  it('has as many log-probabilities as the whole answer', async () => {
    const body = { prompt: [5, 6, 7], max_tokens: 4, temperature: 0, logprobs: 1, echo: true };
    const chunks = chunksOf(await stream(body));
    const tokens = chunks.flatMap((chunk) => chunk.choices).flatMap((choice) => choice.logprobs?.tokens ?? []);
    assert.equal(tokens.length, 7);
  });

  it('is refused with a status while nothing has been sent', async () => {
    for (const prompt of ['a', [4096]]) {
      const body = { prompt, max_tokens: 5000, stream: true };
      const response = await server.post('/v1/completions', body);
      assert.match(response.headers.get('content-type') ?? '', /^application\/json/);
      assert.equal((await refusal(response)).status, 400);
    }
  });

  it('frees its sequence when the client goes away, again and again', async () => {
    for (let i = 0; i < 50; i++) {
      const controller = new AbortController();
      const response = await fetch(`${server.url}/v1/completions`, {
        method: 'POST',
        body: JSON.stringify({ prompt: 'The', max_tokens: 1000, temperature: 1, stream: true, ignore_eos: true }),
        signal: controller.signal,
      });
      await response.body?.getReader().read();
      controller.abort();
    }
    await eventually(
      'no sequence is left',
      () => server.engine.stats().running === 0 && server.engine.stats().waiting === 0,
    );
    assert.equal(server.engine.stats().kvBytes, 0);
    assert.match(
      await (await server.get('/metrics')).text(),
      /http_requests_total\{[^}]*completions[^}]*status="499"\} [1-9]/,
    );
  });

  it('frees its sequence when the client of a whole answer goes away', async () => {
    const controller = new AbortController();
    const answer = fetch(`${server.url}/v1/completions`, {
      method: 'POST',
      body: JSON.stringify({ prompt: 'The', max_tokens: 1000, n: 8, temperature: 1, ignore_eos: true }),
      signal: controller.signal,
    });
    await eventually('it runs', () => server.engine.stats().running > 0);
    controller.abort();
    await assert.rejects(answer);
    await eventually('no sequence is left', () => server.engine.stats().running === 0);
  });
});

describe('a stream, when things go wrong,', () => {
  const body = (more: object = {}): RequestInit => ({
    method: 'POST',
    body: JSON.stringify({ prompt: 'a', stream: true, ...more }),
  });

  async function withApp(
    setup: Parameters<typeof startScriptedApp>[0],
    test: (app: Awaited<ReturnType<typeof startScriptedApp>>) => Promise<void>,
  ): Promise<void> {
    const app = await startScriptedApp(setup);
    try {
      await test(app);
    } finally {
      await app.close();
    }
  }

  it('tells of a failure in its middle by an error event, and has no [DONE]', async () => {
    const script: Script = async function* () {
      yield prompt();
      yield delta('so far');
      throw new ServerError('mask_corrupt', 'the mask rotted');
    };
    await withApp({ script }, async ({ url }) => {
      const response = await fetch(`${url}/v1/completions`, body());
      assert.equal(response.status, 200);
      const events = eventsOf(await response.text());
      assert.equal(events.length, 2);
      assert.deepEqual(JSON.parse(events[1] as string), {
        error: { message: 'the mask rotted', type: 'server_error', param: null, code: 'mask_corrupt' },
      });
    });
  });

  it('keeps the reason of a defect to the log', async () => {
    const script: Script = async function* () {
      yield prompt();
      throw new Error('secret path /etc');
    };
    await withApp({ script }, async ({ url }) => {
      const text = await (await fetch(`${url}/v1/completions`, body())).text();
      assert.match(text, /"code":"internal_error"/);
      assert.doesNotMatch(text, /secret/);
    });
  });

  it('is a status when a later sequence of the batch fails before anything was sent', async () => {
    const script: Script = async function* (request) {
      await delay(20);
      if (request.prompt === 'bad') throw new ServerError('context_length_exceeded', 'too long');
      yield prompt();
      yield delta('text');
      yield done();
    };
    await withApp({ script }, async ({ url, running }) => {
      const response = await fetch(`${url}/v1/completions`, body({ prompt: ['good', 'bad'] }));
      assert.equal((await refusal(response)).code, 'context_length_exceeded');
      assert.equal(running(), 0);
    });
  });

  it('sends its headers soon though nothing has come yet, and comments while nothing comes', async () => {
    const script: Script = async function* (_request, signal) {
      await delay(400, undefined, { signal });
      yield prompt();
      yield delta('late');
      yield done();
    };
    await withApp({ script, limits: { flushAfter: 30, keepAlive: 40 } }, async ({ url }) => {
      const response = await fetch(`${url}/v1/completions`, body());
      const text = await response.text();
      assert.match(text, /^: ka\n\n/);
      assert.match(text, /"text":"late"[^]*data: \[DONE\]\n\n$/);
      assert.doesNotMatch(text, /^(id|event):/m);
    });
  });

  it('sends its headers while the task is loaded', async () => {
    let begun = false;
    const script: Script = async function* () {
      begun = true;
      yield prompt();
      yield done();
    };
    await withApp({ script, tasks: ['french'], loadMs: 300, limits: { flushAfter: 20 } }, async ({ url, leases }) => {
      const response = await fetch(`${url}/v1/completions`, { ...body(), headers: { 'X-Task': 'french' } });
      assert.equal(response.headers.get('x-mask-digest'), 'd'.repeat(64));
      assert.equal(begun, false, 'it is not loaded yet');
      await response.text();
      assert.equal(begun, true);
      assert.equal(leases(), 0, 'it was given back');
    });
  });

  it('gives its lease back when the client goes away, also during the load', async () => {
    const script: Script = async function* (_request, signal) {
      yield prompt();
      await untilAborted(signal);
    };
    await withApp({ script, tasks: ['french'], loadMs: 100 }, async ({ url, leases, running }) => {
      for (const patience of [20, 200]) {
        const controller = new AbortController();
        const request = fetch(`${url}/v1/completions`, {
          ...body(),
          headers: { 'X-Task': 'french' },
          signal: controller.signal,
        }).then((response) => response.text());
        await delay(patience);
        controller.abort();
        await assert.rejects(request);
        await eventually('lease and sequence are free', () => leases() === 0 && running() === 0);
      }
    });
  });

  it('waits for a slow reader, and drops one that reads nothing', async () => {
    let produced = 0;
    const script: Script = async function* () {
      yield prompt();
      for (;;) {
        produced++;
        yield delta('x'.repeat(10_000));
      }
    };
    await withApp({ script, limits: { stall: 300 } }, async ({ url, running }) => {
      const { port } = new URL(url);
      const socket = connect(Number(port), '127.0.0.1');
      const payload = JSON.stringify({ prompt: 'a', stream: true });
      socket.write(
        `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${payload.length}\r\n\r\n${payload}`,
      );
      socket.pause();
      await eventually('it writes', () => running() === 1 && produced > 10);
      await delay(100);
      const before = produced;
      await delay(100);
      assert.equal(produced, before, 'nothing more is made while nobody reads');
      await eventually('it gave up', () => running() === 0);
      socket.destroy();
    });
  });

  it('ends with request_timeout when its time is up', async () => {
    const script: Script = async function* (_request, signal) {
      yield prompt();
      await untilAborted(signal);
    };
    await withApp({ script, requestTimeoutMs: 100 }, async ({ url, running }) => {
      const streamed = await (await fetch(`${url}/v1/completions`, body())).text();
      assert.match(streamed, /"code":"request_timeout"/);
      const whole = await fetch(`${url}/v1/completions`, body({ stream: false }));
      assert.equal(whole.headers.get('x-should-retry'), 'false');
      assert.equal((await refusal(whole)).status, 408);
      assert.equal(running(), 0);
    });
  });
});
