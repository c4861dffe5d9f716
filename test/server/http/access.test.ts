import assert from 'node:assert/strict';
import { request } from 'node:http';
import { after, before, describe, it } from 'node:test';
import { parseKeys } from '../../../server/http/keys.js';
import { isLoopbackName } from '../../../server/http/access.js';
import { startRealServer, type RealServer } from './real-server.js';
import { done, prompt, startScriptedApp } from './scripted-app.js';

interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: string;
}

/** Unlike fetch, node:http sends any Host and Origin. */
function ask(url: string, headers: Record<string, string>, method = 'GET'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const outgoing = request(url, { method, headers }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (text: string) => (body += text));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body }));
    });
    outgoing.on('error', reject).end();
  });
}

describe('without keys', () => {
  let server: RealServer;
  before(async () => {
    server = await startRealServer({ config: { allowOrigins: ['https://app.example'] } });
  });
  after(() => server.close());

  it('this machine’s names are served, on any port', async () => {
    for (const host of ['localhost', 'localhost:9999', '127.0.0.1', '127.8.8.8:1', '[::1]:8080', 'LOCALHOST']) {
      assert.equal((await ask(`${server.url}/v1/models`, { Host: host })).status, 200, host);
    }
  });

  it('a foreign Host is refused: its page was rebound to this address', async () => {
    for (const host of [
      'evil.example',
      'localhost.evil.example',
      '10.0.0.1:8080',
      '127.0.0.1.evil.example',
      'x@localhost',
    ]) {
      const { status, body } = await ask(`${server.url}/v1/models`, { Host: host });
      assert.equal(status, 403, host);
      assert.match(body, /"code":"foreign_origin"/);
      assert.match(body, /--keys FILE/);
    }
  });

  it('pages of other origins are refused, also for what browsers send without asking', async () => {
    const { port } = new URL(server.url);
    for (const origin of ['https://evil.example', 'null', `http://localhost:${Number(port) + 1}`, 'http://localhost']) {
      for (const [method, path] of [
        ['GET', '/v1/models'],
        ['POST', '/v1/completions'],
        ['DELETE', '/v1/masks/french'],
        ['OPTIONS', '/v1/masks/french'],
        ['GET', '/metrics'],
      ] as const) {
        const { status, body, headers } = await ask(server.url + path, { Origin: origin }, method);
        assert.equal(status, 403, `${origin} ${method} ${path}`);
        assert.match(body, /"code":"foreign_origin"/);
        assert.equal(headers['access-control-allow-origin'], undefined);
      }
    }
  });

  it('the server’s own pages are served', async () => {
    const { status } = await ask(`${server.url}/v1/models`, { Origin: server.url });
    assert.equal(status, 200);
  });

  it('pages of an allowed origin are served, after their preflight', async () => {
    const origin = 'https://app.example';
    const preflight = await ask(
      `${server.url}/v1/completions`,
      {
        Origin: origin,
        'Access-Control-Request-Method': 'POST',
        'Access-Control-Request-Headers': 'x-task,content-type',
      },
      'OPTIONS',
    );
    assert.equal(preflight.status, 204);
    assert.equal(preflight.headers['access-control-allow-origin'], origin);
    assert.equal(preflight.headers['access-control-allow-headers'], 'x-task,content-type');
    assert.match(String(preflight.headers['access-control-allow-methods']), /PUT/);
    const { status, headers } = await ask(`${server.url}/v1/models`, { Origin: origin });
    assert.equal(status, 200);
    assert.match(String(headers['access-control-expose-headers']), /X-Mask-Digest/);
    assert.equal(headers['vary'], 'Origin');
  });
});

describe('with keys', () => {
  it('the key decides, whatever Host and Origin say', async () => {
    const sha256 = '2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b'; // of "secret"
    const app = await startScriptedApp({
      script: async function* () {
        yield prompt();
        yield done();
      },
      options: { keys: parseKeys({ keys: [{ name: 'a', sha256, scopes: ['admin'] }] }, 'f') },
    });
    try {
      const headers = { Host: 'api.example', Origin: 'https://other.example', Authorization: 'Bearer secret' };
      const { status, headers: answered } = await ask(`${app.url}/v1/models`, headers);
      assert.equal(status, 200);
      assert.equal(answered['access-control-allow-origin'], undefined, 'but its page may not read it');
    } finally {
      await app.close();
    }
  });
});

describe('loopback names', () => {
  it('are those of this machine only', () => {
    for (const name of ['localhost', '127.0.0.1', '127.1.2.3', '::1', '[::1]']) assert.ok(isLoopbackName(name), name);
    for (const name of ['0.0.0.0', '::', '10.0.0.1', 'localhost.', '127.0.0.1.nip.io', '', '1127.0.0.1']) {
      assert.ok(!isLoopbackName(name), name);
    }
  });
});
