import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import OpenAI, { APIUserAbortError, BadRequestError, NotFoundError } from 'openai';
import { eventually, sampleMask, startRealServer, type RealServer } from './real-server.js';

describe('the openai package, unmodified, with a base URL and a default header', () => {
  let server: RealServer;
  let client: OpenAI;
  const request = { model: 'tiny', prompt: 'The function returns', max_tokens: 12, temperature: 0 };

  before(async () => {
    server = await startRealServer();
    await server.publish('french', sampleMask(server, 1).bytes);
    client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', defaultHeaders: { 'X-Task': 'french' } });
  });
  after(() => server.close());

  it('completes, and streams the same', async () => {
    const { data, response } = await client.completions.create(request).withResponse();
    assert.equal(response.headers.get('x-task'), 'french');
    let text = '';
    const reasons: string[] = [];
    for await (const chunk of await client.completions.create({ ...request, stream: true })) {
      text += chunk.choices[0]?.text ?? '';
      if (chunk.choices[0]?.finish_reason) reasons.push(chunk.choices[0].finish_reason);
    }
    assert.equal(text, data.choices[0]?.text);
    assert.deepEqual(reasons, ['length']);
  });

  it('chooses another task by a header of its own, or by model where none is set', async () => {
    const { response } = await client.completions.create(request, { headers: { 'X-Task': 'dense' } }).withResponse();
    assert.equal(response.headers.get('x-task'), 'dense');
    const plain = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none' });
    const byModel = await plain.completions.create({ ...request, model: 'tiny:french' }).withResponse();
    assert.equal(byModel.response.headers.get('x-task'), 'french');
  });

  it('lists and retrieves models', async () => {
    const ids: string[] = [];
    for await (const model of client.models.list()) ids.push(model.id);
    assert.deepEqual(ids, ['tiny', 'tiny:french']);
    assert.equal((await client.models.retrieve('tiny:french')).id, 'tiny:french');
  });

  it('raises its own errors, with code, param and request id', async () => {
    const lost = client.completions.create(request, { headers: { 'X-Task': 'klingon' } });
    await assert.rejects(lost, (error: unknown) => {
      assert.ok(error instanceof NotFoundError);
      assert.equal(error.code, 'task_not_found');
      assert.match(error.requestID ?? '', /^[0-9a-f-]{36}$/);
      return true;
    });
    await assert.rejects(client.completions.create({ ...request, max_tokens: -1 }), (error: unknown) => {
      assert.ok(error instanceof BadRequestError);
      assert.equal(error.param, 'max_tokens');
      return true;
    });
  });

  it('frees the sequence when its loop is left, or it is aborted', async () => {
    const long = { ...request, max_tokens: 1000, stream: true, ignore_eos: true } as const;
    for await (const chunk of await client.completions.create(long)) {
      assert.ok(chunk.id);
      break;
    }
    await eventually('it is free', () => server.engine.stats().running === 0);
    const controller = new AbortController();
    const whole = client.completions.create(
      { ...request, max_tokens: 1000, ignore_eos: true } as OpenAI.CompletionCreateParamsNonStreaming,
      { signal: controller.signal },
    );
    await eventually('it runs', () => server.engine.stats().running === 1);
    controller.abort();
    await assert.rejects(whole, APIUserAbortError);
    await eventually('it is free', () => server.engine.stats().running === 0);
  });
});
