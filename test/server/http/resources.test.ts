import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { Ajv, type SchemaObject } from 'ajv';
import { TASK_LABELS } from '../../../server/http/metrics.js';
import { eventually, refusal, sampleMask, startRealServer, type RealServer } from './real-server.js';
import { delta, done, prompt, startScriptedApp } from './scripted-app.js';

describe('the other endpoints', () => {
  let server: RealServer;
  let french: { bytes: Uint8Array; digest: string };
  before(async () => {
    server = await startRealServer();
    french = sampleMask(server, 1);
    await server.publish('french', french.bytes);
  });
  after(() => server.close());

  async function json<T>(response: Response | Promise<Response>): Promise<T> {
    const answer = await response;
    assert.equal(answer.status, 200, await answer.clone().text());
    return (await answer.json()) as T;
  }

  describe('/v1/models', () => {
    interface Model {
      id: string;
      object: string;
      owned_by: string;
      digest: string | null;
      bytes: number;
      residency: { tier: string; bytes: number; cost_bytes: number; load: object | null };
    }

    it('lists the base and every task, loaded or not', async () => {
      await server.publish('c', sampleMask(server, 5).bytes);
      const list = await json<{ object: string; data: Model[] }>(server.get('/v1/models'));
      assert.equal(list.object, 'list');
      assert.deepEqual(
        list.data.map(({ id, object, owned_by }) => [id, object, owned_by]),
        ['tiny', 'tiny:c', 'tiny:french'].map((id) => [id, 'model', 'maskserve']),
      );
      await server.get('/v1/masks/c', { method: 'DELETE' });
    });

    it('tells of a task where it is and what it takes', async () => {
      const before = await json<Model>(server.get('/v1/models/tiny%3Afrench'));
      assert.equal(before.digest, french.digest);
      assert.equal(before.bytes, french.bytes.length);
      assert.deepEqual(before.residency, {
        tier: 'cold',
        bytes: 0,
        cost_bytes: server.residency.costBytes(),
        load: null,
      });
      await server.post('/v1/completions', { prompt: 'a', max_tokens: 1 }, { 'X-Task': 'french' });
      const after = await json<Model>(server.get('/v1/models/tiny:french'));
      assert.deepEqual([after.residency.tier, after.residency.bytes], ['resident', server.residency.costBytes()]);
    });

    it('does not know others', async () => {
      for (const id of ['gpt-4', 'tiny:klingon', 'a%2Fb']) {
        const error = await refusal(await server.get(`/v1/models/${id}`));
        assert.deepEqual([error.status, error.code, error.param], [404, 'model_not_found', 'model']);
      }
    });
  });

  describe('/tokenize, /detokenize and /tokenizer_info', () => {
    it('go back and forth, without a look at the task', async () => {
      const text = "Où est l'été ?";
      const headers = { 'X-Task': 'no-such-task' };
      const { tokens, count, max_model_len } = await json<{ tokens: number[]; count: number; max_model_len: number }>(
        server.post('/tokenize', { prompt: text, add_special_tokens: false }, headers),
      );
      assert.equal(count, tokens.length);
      assert.equal(max_model_len, 1024);
      assert.deepEqual(await json(server.post('/detokenize', { tokens }, headers)), { prompt: text });
      const special = await json<{ tokens: number[] }>(server.post('/tokenize', { prompt: text }));
      assert.deepEqual(special.tokens, [0, ...tokens]);
    });

    it('name the special tokens', async () => {
      assert.deepEqual(await json(server.get('/tokenizer_info')), {
        bos_token: '<|begin_of_text|>',
        eos_token: '<|end_of_text|>',
        pad_token: '<|pad|>',
        chat_template: null,
      });
    });

    it('refuse what would hold up everybody, and ids that are none', async () => {
      const long = await refusal(await server.post('/tokenize', { prompt: 'x'.repeat(600_000) }));
      assert.equal(long.code, 'context_length_exceeded');
      assert.match(long.message, /524288 characters .* 600000/);
      const foreign = await refusal(await server.post('/detokenize', { tokens: [1, 4096] }));
      assert.deepEqual([foreign.code, foreign.param], ['invalid_request', 'tokens']);
    });
  });

  describe('/v1/eval', () => {
    const documents = [
      'The function returns the number of bytes written, or -1 on error. '.repeat(40),
      'int main(void) {}',
    ];

    it('gives the perplexity that the engine gives', async () => {
      const own = await server.engine.evaluate(
        { documents, windowLength: 64, windows: 3, separator: 1, bos: true, weights: null },
        new AbortController().signal,
      );
      const body = { documents, window_length: 64, windows: 3 };
      assert.deepEqual(await json(server.post('/v1/eval', body)), { task: 'dense', ...own });
      const masked = await json<{ task: string; ppl: number }>(server.post('/v1/eval', body, { 'X-Task': 'french' }));
      assert.equal(masked.task, 'french');
      assert.ok(masked.ppl > own.ppl, 'random patterns are worse than none');
    });

    it('equals the log-probabilities that echo gives', async () => {
      const stream = [...(await server.engine.tokenize(documents[0] as string, true)), 1];
      const { nll, tokens } = await json<{ nll: number; tokens: number }>(
        server.post('/v1/eval', { documents: [documents[0]], window_length: 32, windows: 2 }),
      );
      assert.equal(tokens, 64);
      const prompts = [stream.slice(0, 33), stream.slice(32, 65)];
      const { choices } = await json<{ choices: { logprobs: { token_logprobs: (number | null)[] } }[] }>(
        server.post('/v1/completions', { prompt: prompts, max_tokens: 0, echo: true, logprobs: 0 }),
      );
      const all = choices.flatMap((choice) => choice.logprobs.token_logprobs.slice(1) as number[]);
      const mean = -all.reduce((sum, logprob) => sum + logprob, 0) / all.length;
      assert.ok(Math.abs(mean - nll) < 1e-6, `${mean} and ${nll}`);
    });

    it('refuses windows and separators that can’t be', async () => {
      for (const [more, param] of [
        [{ window_length: 2000 }, 'window_length'],
        [{ separator: 4096 }, 'separator'],
        [{ documents: [] }, 'documents'],
        [{ windows: 0 }, 'windows'],
      ] as const) {
        const error = await refusal(await server.post('/v1/eval', { documents, ...more }));
        assert.deepEqual([error.status, error.code, error.param], [400, 'invalid_request', param]);
      }
    });
  });

  it('/openapi.json describes every path, with schemas that compile', async () => {
    const api = await json<{
      openapi: string;
      paths: Record<string, object>;
      components: { schemas: Record<string, SchemaObject> };
    }>(server.get('/openapi.json'));
    assert.match(api.openapi, /^3\.1/);
    for (const path of ['/v1/completions', '/v1/masks/{task}/rollback', '/tokenizer_info', '/readyz']) {
      assert.ok(path in api.paths, path);
    }
    const ajv = new Ajv({ allowUnionTypes: true });
    for (const schema of Object.values(api.components.schemas)) ajv.compile(schema);
    const references = JSON.stringify(api).matchAll(/#\/components\/schemas\/(\w+)/g);
    for (const [, name] of references) assert.ok(api.components.schemas[name as string], name);
  });

  it('an unknown path is 404 and says where to look', async () => {
    for (const path of ['/v1/responses', '/', '/v1/completions/x', '/%zz']) {
      const error = await refusal(await server.post(path, {}));
      assert.equal(error.status, 404, path);
      assert.match(error.message, /openapi\.json/);
    }
  });

  it('/metrics has tokens, times, residency and native memory, and lines for no path that a client made up', async () => {
    await server.post(
      '/v1/completions',
      { prompt: 'a', max_tokens: 32, seed: 1, ignore_eos: true },
      { 'X-Task': 'french' },
    );
    await server.get('/made-up');
    const response = await server.get('/metrics');
    assert.match(response.headers.get('content-type') ?? '', /^text\/plain; version=0\.0\.4/);
    const text = await response.text();
    for (const pattern of [
      /maskserve_tokens_total\{task="french",kind="completion"\} [1-9]/,
      /maskserve_time_to_first_token_seconds_count\{task="french"\} [1-9]/,
      /maskserve_inter_token_seconds_count\{task="french"\} [1-9]/,
      /maskserve_task_load_seconds_count\{task="french"\} 1\n/,
      /maskserve_task_tier\{task="french",tier="resident"\} 1\n/,
      new RegExp(`maskserve_residency_bytes ${server.residency.costBytes()}\n`),
      /maskserve_residency_hits_total [1-9]/,
      /maskserve_residency_misses_total 1\n/,
      /maskserve_sequences_running \d+\n/,
      /maskserve_native_mapped_bytes [1-9]/,
      /maskserve_http_requests_total\{route="other",method="GET",status="404"\} [1-9]/,
      /maskserve_process_cpu_seconds_total/,
    ]) {
      assert.match(text, pattern);
    }
    assert.doesNotMatch(text, /made-up/);
  });
});

describe('metrics by task', () => {
  it('are capped: tasks beyond the first share a label', async () => {
    const tasks = Array.from({ length: TASK_LABELS + 20 }, (_, i) => `t${i}`);
    const app = await startScriptedApp({
      tasks,
      script: async function* () {
        yield prompt();
        yield delta('a');
        yield done(1);
      },
    });
    try {
      for (const task of tasks) {
        await fetch(`${app.url}/v1/completions`, {
          method: 'POST',
          headers: { 'X-Task': task },
          body: JSON.stringify({ prompt: 'a' }),
        });
      }
      const text = await (await fetch(`${app.url}/metrics`)).text();
      const labels = new Set([...text.matchAll(/tokens_total\{task="([^"]+)"/g)].map((match) => match[1]));
      assert.ok(labels.size <= TASK_LABELS + 1);
      assert.match(text, /maskserve_tokens_total\{task="other",kind="completion"\} 21\n/);
    } finally {
      await app.close();
    }
  });
});

describe('a server that drains', () => {
  it('says so, refuses new requests and finishes running ones', async () => {
    const lifecycle = { draining: false };
    const app = await startScriptedApp({
      script: async function* () {
        yield prompt();
        await delay(150);
        yield delta('finished');
        yield done();
      },
      options: { lifecycle },
    });
    try {
      const running = fetch(`${app.url}/v1/completions`, { method: 'POST', body: JSON.stringify({ prompt: 'a' }) });
      await eventually('it runs', () => app.running() === 1);
      assert.equal((await fetch(`${app.url}/readyz`)).status, 200);
      lifecycle.draining = true;
      const ready = await fetch(`${app.url}/readyz`);
      assert.equal(ready.status, 503);
      assert.equal(((await ready.json()) as { status: string }).status, 'draining');
      assert.equal((await fetch(`${app.url}/healthz`)).status, 200);
      const refused = await fetch(`${app.url}/v1/models`);
      assert.equal(refused.headers.get('x-should-retry'), 'true');
      assert.deepEqual((await refusal(refused)).code, 'shutting_down');
      assert.match(await (await running).text(), /finished/);
    } finally {
      await app.close();
    }
  });
});
