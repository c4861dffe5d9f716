import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { eventually, refusal, sampleMask, startRealServer, type RealServer } from './real-server.js';

describe('the task of a request', () => {
  let server: RealServer;
  let french: { bytes: Uint8Array; digest: string };
  let german: { bytes: Uint8Array; digest: string };
  const body = { prompt: 'The function', max_tokens: 16, temperature: 0 };

  before(async () => {
    server = await startRealServer();
    french = sampleMask(server, 1);
    german = sampleMask(server, 2);
    await server.publish('french', french.bytes);
    await server.publish('german', german.bytes);
  });
  after(() => server.close());

  async function answer(
    more: object,
    headers: Record<string, string> = {},
  ): Promise<{ text: string; response: Response }> {
    const response = await server.post('/v1/completions', { ...body, ...more }, headers);
    assert.equal(response.status, 200, await response.clone().text());
    const { choices } = (await response.json()) as { choices: { text: string }[] };
    return { text: choices[0]?.text ?? '', response };
  }

  it('is the one of X-Task, and the answer names it with its digest', async () => {
    const { text, response } = await answer({}, { 'X-Task': 'french' });
    assert.equal(response.headers.get('x-task'), 'french');
    assert.equal(response.headers.get('x-mask-digest'), french.digest);
    assert.equal((await answer({}, { 'X-Task': 'french' })).text, text, 'the same again');
    assert.notEqual((await answer({}, { 'X-Task': 'german' })).text, text, 'another task, another text');
    assert.notEqual((await answer({})).text, text, 'nor is it the base');
  });

  it('is the one after ":" in model, where there is no header', async () => {
    const { response, text } = await answer({ model: 'tiny:german' });
    assert.equal(response.headers.get('x-task'), 'german');
    assert.equal(text, (await answer({}, { 'X-Task': 'german' })).text);
  });

  it('is the default where nothing names one: the unmasked base', async () => {
    for (const model of [undefined, null, '', 'tiny', 'tiny:dense']) {
      const { response } = await answer({ model });
      assert.equal(response.headers.get('x-task'), 'dense');
      assert.equal(response.headers.get('x-mask-digest'), null);
    }
  });

  it('is the header’s where model names another', async () => {
    const { response } = await answer({ model: 'tiny:german' }, { 'X-Task': 'french' });
    assert.equal(response.headers.get('x-task'), 'french');
    const dense = await answer({ model: 'tiny:german' }, { 'X-Task': 'dense' });
    assert.equal(dense.response.headers.get('x-task'), 'dense');
    const lost = await answer({ model: 'tiny:no-such-task' }, { 'X-Task': 'french' });
    assert.equal(lost.response.headers.get('x-task'), 'french');
  });

  it('can be a version, by header and by model', async () => {
    const pin = `french@sha256:${french.digest}`;
    for (const [more, headers] of [
      [{}, { 'X-Task': pin }],
      [{ model: `tiny:${pin}` }, {}],
    ] as const) {
      const { response } = await answer(more, headers);
      assert.equal(response.headers.get('x-mask-digest'), french.digest);
    }
    const foreign = await server.post('/v1/completions', body, { 'X-Task': `french@sha256:${german.digest}` });
    assert.equal((await refusal(foreign)).code, 'version_not_found');
  });

  it('is never the base in place of one that does not exist', async () => {
    for (const [model, header] of [
      ['tiny', 'klingon'],
      ['tiny:klingon', undefined],
      ['tiny', 'KLINGON!'],
      ['tiny', '../french'],
      ['tiny', `dense@sha256:${'0'.repeat(64)}`],
    ] as const) {
      const response = await server.post(
        '/v1/completions',
        { ...body, model },
        header === undefined ? {} : { 'X-Task': header },
      );
      const error = await refusal(response);
      assert.equal(error.status, 404);
      assert.equal(error.code, 'task_not_found');
      assert.match(error.message, /GET \/v1\/models/);
      assert.equal(error.param, header === undefined ? 'model' : 'X-Task');
    }
  });

  it('is refused where the reference can’t be read', async () => {
    const header = await refusal(await server.post('/v1/completions', body, { 'X-Task': 'french@sha256:12' }));
    assert.deepEqual([header.status, header.code, header.param], [400, 'invalid_header', 'X-Task']);
    const model = await refusal(await server.post('/v1/completions', { ...body, model: 'tiny:@' }));
    assert.deepEqual([model.status, model.code, model.param], [400, 'invalid_request', 'model']);
  });

  it('does not come from the name of another model', async () => {
    for (const model of ['gpt-4', 'french', 'tin', 'tinyfrench']) {
      const error = await refusal(await server.post('/v1/completions', { ...body, model }));
      assert.deepEqual([error.status, error.code, error.param], [404, 'model_not_found', 'model']);
    }
  });

  it('stays the version it began with, though another is published meanwhile', async () => {
    const long = { ...body, max_tokens: 600, ignore_eos: true };
    const before = await answer(long, { 'X-Task': 'french' });
    const stream = await server.post('/v1/completions', { ...long, stream: true }, { 'X-Task': 'french' });
    await server.publish('french', german.bytes);
    const events = (await stream.text()).split('\n\n').filter((block) => block.startsWith('data: {'));
    const text = events.map(
      (block) => (JSON.parse(block.slice(6)) as { choices: { text: string }[] }).choices[0]?.text,
    );
    assert.equal(text.join(''), before.text);
    assert.equal(stream.headers.get('x-mask-digest'), french.digest);
    const later = await answer(body, { 'X-Task': 'french' });
    assert.equal(later.response.headers.get('x-mask-digest'), german.digest);
    assert.equal(later.text, (await answer(body, { 'X-Task': 'german' })).text);
    await eventually('no lease is left', () =>
      [...server.residency.stats().tasks.values()].every((task) => task.leases === 0),
    );
  });

  it('is loaded once for many requests at the same time', async () => {
    const spanish = sampleMask(server, 3);
    await server.publish('spanish', spanish.bytes);
    const before = server.residency.stats().misses;
    const texts = await Promise.all(Array.from({ length: 12 }, () => answer({}, { 'X-Task': 'spanish' })));
    assert.equal(new Set(texts.map(({ text }) => text)).size, 1);
    const loads = /maskserve_task_load_seconds_count\{task="spanish"\} (\d+)/.exec(
      await (await server.get('/metrics')).text(),
    );
    assert.ok(Number(loads?.[1]) >= 1);
    assert.ok(server.residency.stats().misses > before);
  });
});

describe('a server with a default task', () => {
  it('uses it, and still serves dense by name', async () => {
    const first = await startRealServer();
    const { bytes, digest } = sampleMask(first, 1);
    try {
      await first.publish('french', bytes);
      await first.stop(1000);
      const server = await startRealServer({ config: { defaultTask: 'french', store: `${first.folder}/store` } });
      const response = await server.post('/v1/completions', { prompt: 'a', model: 'tiny' });
      assert.equal(response.headers.get('x-mask-digest'), digest);
      const dense = await server.post('/v1/completions', { prompt: 'a', model: 'tiny:dense' });
      assert.equal(dense.headers.get('x-task'), 'dense');
      const models = (await (await server.get('/v1/models')).json()) as { data: { id: string; task: string }[] };
      assert.deepEqual(
        models.data.map(({ id, task }) => [id, task]),
        [
          ['tiny', 'french'],
          ['tiny:dense', 'dense'],
          ['tiny:french', 'french'],
        ],
      );
      await server.close();
    } finally {
      await first.close();
    }
  });

  it('does not start when there is no such task, and says which there are', async () => {
    await assert.rejects(startRealServer({ config: { defaultTask: 'klingon' } }), {
      message: /^expected --default-task to be one of dense.* but received "klingon"$/,
    });
  });
});
