import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { eventually, startRealServer, type RealServer } from './real-server.js';

/** Values that fields are likely to get, right and wrong. */
const value = fc.oneof(
  fc.constantFrom<unknown>(
    null,
    true,
    false,
    '',
    'a',
    0,
    -1,
    1,
    2,
    0.5,
    1e308,
    2 ** 53,
    4095,
    4096,
    {},
    [],
    [''],
    [1],
    [[1]],
  ),
  fc.json().map((text) => JSON.parse(text) as unknown),
);

/** Few tokens, so that valid bodies don't take long. */
const bodyOf = (fields: readonly string[]): fc.Arbitrary<Record<string, unknown>> =>
  fc.record(Object.fromEntries(fields.map((field) => [field, value])), { requiredKeys: [] });

const SAMPLING = ['temperature', 'top_p', 'top_k', 'n', 'stop', 'seed', 'stream', 'stream_options', 'logit_bias'];
const PENALTIES = ['presence_penalty', 'frequency_penalty', 'ignore_eos', 'user', 'model'];

describe('any JSON body', () => {
  let server: RealServer;
  before(async () => {
    server = await startRealServer();
  });
  after(() => server.close());

  const paths: [path: string, fields: string[], fixed: object][] = [
    [
      '/v1/completions',
      ['prompt', 'echo', 'logprobs', 'best_of', 'suffix', 'add_special_tokens', ...SAMPLING, ...PENALTIES],
      { max_tokens: 2 },
    ],
    [
      '/v1/chat/completions',
      ['messages', 'logprobs', 'top_logprobs', 'tools', ...SAMPLING, ...PENALTIES],
      { max_tokens: 2 },
    ],
    ['/v1/eval', ['documents', 'windows', 'window_length', 'separator', 'bos', 'model'], {}],
    ['/tokenize', ['prompt', 'add_special_tokens'], {}],
    ['/detokenize', ['tokens'], {}],
    ['/v1/masks/french/rollback', ['to'], {}],
  ];
  for (const [path, fields, fixed] of paths) {
    it(`gets an answer or a reason from ${path}, never a defect`, async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.oneof({ weight: 8, arbitrary: bodyOf(fields) }, { weight: 1, arbitrary: value }),
          async (body) => {
            const whole =
              typeof body === 'object' && body !== null && !Array.isArray(body) ? { ...body, ...fixed } : body;
            const response = await server.post(path, JSON.stringify(whole));
            const text = await response.text();
            assert.ok(response.status < 500, text);
            assert.doesNotMatch(text, /internal_error/);
            if (response.status >= 400) assert.ok((JSON.parse(text) as { error: { message: string } }).error.message);
          },
        ),
        { numRuns: 150, seed: 1 },
      );
    });
  }

  it('may be nested as deeply as it likes', async () => {
    const deep = '['.repeat(200_000) + ']'.repeat(200_000);
    const response = await server.post('/v1/completions', `{"prompt": ${deep}}`);
    assert.equal(response.status, 400);
  });

  it('leaves nothing running', () =>
    eventually('nothing runs or waits', () => {
      const { running, waiting } = server.engine.stats();
      return running === 0 && waiting === 0;
    }));
});
