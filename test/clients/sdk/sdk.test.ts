import assert from 'node:assert/strict';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { MaskServe, MaskServeError } from '../../../clients/sdk/index.js';
import { eventually, sampleMask, startRealServer, type RealServer } from '../../server/http/real-server.js';

async function failure(promise: Promise<unknown>): Promise<MaskServeError> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof MaskServeError, String(error));
    return error;
  }
  throw new Error('expected it to fail');
}

describe('the SDK against the real server', () => {
  let server: RealServer;
  let client: MaskServe;
  let one: { bytes: Uint8Array; digest: string };
  let two: { bytes: Uint8Array; digest: string };
  const request = { prompt: 'The function returns', max_tokens: 12, temperature: 0 };

  before(async () => {
    server = await startRealServer();
    client = new MaskServe({ baseUrl: `${server.url}/v1/`, task: 'french' });
    one = sampleMask(server, 1);
    two = sampleMask(server, 2);
    await client.masks.put('french', one.bytes);
  });
  after(() => server.close());

  it('completes with the client’s task, or the call’s, and says which it was', async () => {
    const french = await client.complete(request);
    assert.equal(french.task, 'french');
    assert.equal(french.maskDigest, one.digest);
    assert.match(french.requestId, /^[0-9a-f-]{36}$/);
    const dense = await client.complete({ ...request, task: 'dense' });
    assert.deepEqual([dense.task, dense.maskDigest], ['dense', null]);
    assert.notEqual(dense.choices[0]?.text, french.choices[0]?.text);
  });

  it('streams what it completes', async () => {
    const whole = await client.complete(request);
    let text = '';
    for await (const chunk of client.stream(request)) text += chunk.choices[0]?.text ?? '';
    assert.equal(text, whole.choices[0]?.text);
  });

  it('has the usage at the end of a stream if asked', async () => {
    let usage;
    for await (const chunk of client.stream({ ...request, stream_options: { include_usage: true } }))
      usage = chunk.usage;
    assert.equal(usage?.completion_tokens, 12);
  });

  it('ends the work on the server when a loop is left, or aborted', async () => {
    const long = { ...request, max_tokens: 1000, ignore_eos: true };
    for await (const chunk of client.stream(long)) {
      assert.ok(chunk.choices.length);
      break;
    }
    await eventually('it is free', () => server.engine.stats().running === 0);
    const controller = new AbortController();
    const reason = new Error('enough');
    await assert.rejects(async () => {
      for await (const chunk of client.stream(long, { signal: controller.signal })) {
        assert.ok(chunk.id);
        controller.abort(reason);
      }
    }, reason);
    await eventually('it is free', () => server.engine.stats().running === 0);
  });

  it('tokenizes and back', async () => {
    const ids = await client.tokenize("l'été", { addSpecialTokens: false });
    assert.equal(await client.detokenize(ids), "l'été");
    assert.deepEqual(await client.tokenize("l'été"), [0, ...ids]);
  });

  it('lists models', async () => {
    const models = await client.models();
    assert.deepEqual(
      models.map((model) => [model.id, model.digest]),
      [
        ['tiny', null],
        ['tiny:french', one.digest],
      ],
    );
  });

  it('evaluates', async () => {
    const documents = ['The function returns the number of bytes. '.repeat(30)];
    const { task, tokens, nll, ppl } = await client.evaluate({ documents, window_length: 32, windows: 2 });
    assert.deepEqual([task, tokens], ['french', 64]);
    assert.ok(Math.abs(Math.exp(nll) - ppl) < 1e-9);
  });

  it('says that a base model has no chat', async () => {
    const messages = [{ role: 'user', content: 'hello' }] as const;
    assert.equal((await failure(client.chat({ messages }))).code, 'unsupported');
    const stream = client.streamChat({ messages });
    assert.equal((await failure(stream.next())).status, 400);
  });

  it('publishes, looks, downloads, rolls back and removes masks', async () => {
    const created = await client.masks.put('poems', new Blob([one.bytes]), { digest: one.digest, ifAbsent: true });
    assert.deepEqual([created.created, created.digest], [true, one.digest]);
    assert.equal((await client.masks.get('poems')).digest, one.digest);
    const taken = await failure(client.masks.put('poems', two.bytes, { ifAbsent: true }));
    assert.deepEqual([taken.status, taken.code, taken.param], [412, 'precondition_failed', 'If-None-Match']);
    const stale = await failure(client.masks.put('poems', two.bytes, { ifMatch: two.digest }));
    assert.equal(stale.code, 'precondition_failed');
    const wrong = await failure(client.masks.put('poems', two.bytes, { digest: one.digest }));
    assert.equal(wrong.code, 'digest_mismatch');
    const stream = new Blob([two.bytes]).stream();
    assert.equal((await client.masks.put('poems', stream, { ifMatch: one.digest })).created, false);
    assert.deepEqual(
      (await client.masks.versions('poems')).data.map((version) => [version.digest, version.current]),
      [
        [two.digest, true],
        [one.digest, false],
      ],
    );
    assert.equal((await client.masks.rollback('poems')).digest, one.digest);
    assert.equal((await client.masks.rollback('poems', { to: two.digest, ifMatch: one.digest })).digest, two.digest);
    assert.deepEqual([await client.masks.isCurrent('poems', two.digest), await client.masks.isCurrent('poems', one.digest)], [true, false]); // prettier-ignore

    const whole = await client.masks.download('poems');
    assert.deepEqual([whole.digest, whole.bytes], [two.digest, two.bytes.length]);
    assert.deepEqual(new Uint8Array(await new Response(whole.stream).arrayBuffer()), two.bytes);
    const rest = await client.masks.download(`poems@sha256:${one.digest}`, { from: 1000 });
    assert.equal(rest.bytes, one.bytes.length - 1000);
    assert.deepEqual(new Uint8Array(await new Response(rest.stream).arrayBuffer()), one.bytes.slice(1000));

    assert.deepEqual(
      (await client.masks.list()).map((mask) => mask.task),
      ['french', 'poems'],
    );
    await client.masks.remove('poems', { ifMatch: two.digest });
    assert.equal((await failure(client.masks.get('poems'))).code, 'task_not_found');
  });

  it('throws the server’s errors with status, code, param and request id', async () => {
    const error = await failure(client.complete({ ...request, max_tokens: -1 }));
    assert.deepEqual([error.status, error.code, error.param], [400, 'invalid_request', 'max_tokens']);
    assert.match(error.requestId ?? '', /^[0-9a-f-]{36}$/);
    assert.match(error.message, /max_tokens but received -1/);
  });

  it('needs nothing but fetch, and takes another one', async () => {
    const seen: string[] = [];
    const own = new MaskServe({
      baseUrl: server.url,
      apiKey: 'k',
      fetch: (url, init) => {
        seen.push(`${init?.method} ${String(url)} ${new Headers(init?.headers).get('authorization')}`);
        return fetch(url, init);
      },
    });
    await own.models();
    assert.deepEqual(seen, [`GET ${server.url}/v1/models Bearer k`]);
  });
});

describe('the SDK, when the server', () => {
  async function against(listener: RequestListener, test: (client: MaskServe) => Promise<void>): Promise<void> {
    const server = createServer(listener).listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    const { port } = server.address() as AddressInfo;
    try {
      await test(new MaskServe({ baseUrl: `http://127.0.0.1:${port}` }));
    } finally {
      server.closeAllConnections();
      server.close();
    }
  }

  const busy = JSON.stringify({
    error: { message: 'full', type: 'rate_limit_error', param: null, code: 'queue_full' },
  });

  it('is not there, says so', async () => {
    const error = await failure(new MaskServe({ baseUrl: 'http://127.0.0.1:1' }).models());
    assert.deepEqual([error.status, error.code], [undefined, 'connection_failed']);
    assert.match(error.message, /^can't reach http:\/\/127\.0\.0\.1:1: .*; is maskserve running there\?$/);
  });

  it('is busy, tries again as it is told, and gives up in the end', async () => {
    let requests = 0;
    const answer: RequestListener = (_req, res) => {
      requests++;
      res.writeHead(429, { 'x-should-retry': 'true', 'retry-after': '0' }).end(busy);
    };
    await against(answer, async (client) => {
      assert.equal((await failure(client.models())).code, 'queue_full');
      assert.equal(requests, 3);
    });
  });

  it('says that another try is of no use, makes none', async () => {
    let requests = 0;
    const answer: RequestListener = (_req, res) => {
      requests++;
      res.writeHead(503, { 'x-should-retry': 'false' }).end(busy);
    };
    await against(answer, async (client) => {
      await failure(client.models());
      assert.equal(requests, 1);
    });
  });

  it('is busy, can be aborted while it waits to try again', async () => {
    const answer: RequestListener = (_req, res) => {
      res.writeHead(429, { 'x-should-retry': 'true', 'retry-after': '30' }).end(busy);
    };
    await against(answer, async (client) => {
      const controller = new AbortController();
      setTimeout(() => controller.abort(new Error('enough')), 50);
      await assert.rejects(client.models({ signal: controller.signal }), /enough/);
    });
  });

  it('is no maskserve, says what came', async () => {
    const html: RequestListener = (_req, res) =>
      res.writeHead(404, { 'content-type': 'text/html' }).end('<html>nginx</html>');
    await against(html, async (client) => {
      const error = await failure(client.models());
      assert.deepEqual([error.status, error.code], [404, 'bad_response']);
      assert.match(error.message, /status 404 with "<html>nginx<\/html>"/);
    });
    await against(
      (_req, res) => res.end('hello'),
      async (client) => {
        assert.match((await failure(client.models())).message, /expected JSON but received "hello"/);
        const stream = client.stream({ prompt: 'a' });
        assert.match((await failure(stream.next())).message, /expected text\/event-stream/);
      },
    );
  });

  describe('streams', () => {
    const stream =
      (...blocks: string[]): RequestListener =>
      (_req, res) => {
        res.writeHead(200, { 'content-type': 'text/event-stream' });
        // One byte at a time: blocks and characters are cut everywhere.
        for (const byte of Buffer.from(blocks.join(''))) res.write(Buffer.of(byte));
        res.end();
      };

    async function texts(client: MaskServe): Promise<string[]> {
      const all: string[] = [];
      for await (const chunk of client.stream({ prompt: 'a' })) all.push(chunk.choices[0]?.text ?? '');
      return all;
    }
    const chunk = (text: string): string => `data: ${JSON.stringify({ choices: [{ text }] })}\n\n`;

    it('comments and line ends of all kinds, reads the data', async () => {
      const answer = stream(': ka\n\n', chunk('日本'), 'event: x\r\ndata: {"choices":\r\ndata: [{"text":"two"}]}\r\n\r\n', ': ka\n\n', 'data: [DONE]\n\n'); // prettier-ignore
      await against(answer, async (client) => assert.deepEqual(await texts(client), ['日本', 'two']));
    });

    it('an error in the middle, throws it', async () => {
      await against(stream(chunk('a'), `data: ${busy}\n\n`), async (client) => {
        const error = await failure(texts(client));
        assert.deepEqual([error.code, error.message], ['queue_full', 'full']);
      });
    });

    it('less than a whole answer, does not take it for one', async () => {
      await against(stream(chunk('a')), async (client) => {
        assert.equal((await failure(texts(client))).code, 'connection_failed');
      });
      const cut: RequestListener = (_req, res) => {
        res.writeHead(200, { 'content-type': 'text/event-stream' });
        res.write(chunk('a'), () => res.destroy());
      };
      await against(cut, async (client) => {
        assert.equal((await failure(texts(client))).code, 'connection_failed');
      });
    });
  });
});
