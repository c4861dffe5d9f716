import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { refusal, startRealServer, type RealServer } from './real-server.js';

interface Logprobs {
  tokens: string[];
  token_logprobs: (number | null)[];
  top_logprobs: (Record<string, number> | null)[];
  text_offset: number[];
}

interface Completion {
  id: string;
  object: string;
  created: number;
  model: string;
  system_fingerprint: string;
  choices: { index: number; text: string; logprobs: Logprobs | null; finish_reason: string }[];
  usage: { prompt_tokens: number; completion_tokens: number; total_tokens: number };
}

describe('POST /v1/completions', () => {
  let server: RealServer;
  before(async () => {
    server = await startRealServer();
  });
  after(() => server.close());

  async function complete(body: object): Promise<Completion> {
    const response = await server.post('/v1/completions', body);
    assert.equal(response.status, 200, await response.clone().text());
    return (await response.json()) as Completion;
  }

  async function refused(body: unknown): ReturnType<typeof refusal> {
    return refusal(await server.post('/v1/completions', body));
  }

  it('answers in the shape of a text_completion', async () => {
    const completion = await complete({
      model: 'tiny',
      prompt: 'The function returns',
      max_tokens: 5,
      temperature: 0,
      ignore_eos: true,
    });
    assert.match(completion.id, /^cmpl-/);
    assert.equal(completion.object, 'text_completion');
    assert.equal(completion.model, 'tiny');
    assert.ok(Math.abs(completion.created - Date.now() / 1000) < 60);
    assert.equal(completion.system_fingerprint, server.model.base.slice(0, 12));
    const [choice] = completion.choices;
    assert.deepEqual(Object.keys(choice ?? {}), ['index', 'text', 'logprobs', 'finish_reason']);
    assert.equal(choice?.finish_reason, 'length');
    assert.equal(choice?.logprobs, null);
    assert.ok((choice?.text.length ?? 0) > 0);
    const ids = await server.engine.tokenize('The function returns', true);
    assert.deepEqual(completion.usage, {
      prompt_tokens: ids.length,
      completion_tokens: 5,
      total_tokens: ids.length + 5,
    });
  });

  it('writes 16 tokens where max_tokens is not given', async () => {
    const { usage } = await complete({ prompt: 'a', temperature: 0, ignore_eos: true });
    assert.equal(usage.completion_tokens, 16);
  });

  it('takes null for every optional field, as Python clients send it', async () => {
    const nulls = Object.fromEntries(
      [
        ...['model', 'max_tokens', 'temperature', 'top_p', 'top_k', 'n', 'best_of', 'echo', 'logprobs', 'stop'],
        ...['stream', 'stream_options', 'seed', 'suffix', 'logit_bias', 'presence_penalty', 'frequency_penalty'],
        ...['user', 'add_special_tokens', 'ignore_eos'],
      ].map((name) => [name, null]),
    );
    const { choices } = await complete({ ...nulls, prompt: 'a' });
    assert.equal(choices.length, 1);
  });

  it('ignores fields it does not know', async () => {
    await complete({ prompt: 'a', max_tokens: 1, do_sample: true, until: ['x'] });
  });

  it('gives choice prompt · n + j for several prompts with n', async () => {
    const body = { prompt: ['The', 'int main'], n: 2, max_tokens: 4, temperature: 1, seed: 5, ignore_eos: true };
    const { choices, usage } = await complete(body);
    assert.deepEqual(
      choices.map((choice) => choice.index),
      [0, 1, 2, 3],
    );
    const alone = await Promise.all(
      [
        { prompt: 'The', seed: 5 },
        { prompt: 'The', seed: 6 },
        { prompt: 'int main', seed: 5 },
        { prompt: 'int main', seed: 6 },
      ].map((one) => complete({ ...one, max_tokens: 4, temperature: 1, ignore_eos: true })),
    );
    assert.deepEqual(
      choices.map((choice) => choice.text),
      alone.map((completion) => completion.choices[0]?.text),
    );
    assert.equal(usage.prompt_tokens, (alone[0]?.usage.prompt_tokens ?? 0) + (alone[2]?.usage.prompt_tokens ?? 0));
    assert.equal(usage.completion_tokens, 16);
  });

  it('gives the same text for the same seed and another for another', async () => {
    const body = { prompt: 'The', max_tokens: 24, temperature: 1 };
    const [one, same, other] = await Promise.all([7, 7, 8].map((seed) => complete({ ...body, seed })));
    assert.equal(one?.choices[0]?.text, same?.choices[0]?.text);
    assert.notEqual(one?.choices[0]?.text, other?.choices[0]?.text);
  });

  it('takes seeds of any size', async () => {
    const body = { prompt: 'The', max_tokens: 4, temperature: 1, n: 2 };
    for (const seed of [-1, 2 ** 53, 2 ** 63, 0]) {
      const [one, two] = [await complete({ ...body, seed }), await complete({ ...body, seed })];
      assert.deepEqual(one.choices, two.choices);
    }
  });

  it('ends before a stop string, with the reason stop', async () => {
    const whole = await complete({ prompt: 'The function', max_tokens: 24, temperature: 0 });
    const text = whole.choices[0]?.text ?? '';
    const stop = text.slice(5, 9);
    const { choices } = await complete({ prompt: 'The function', max_tokens: 24, temperature: 0, stop: ['#@!', stop] });
    assert.equal(choices[0]?.text, text.slice(0, text.indexOf(stop)));
    assert.equal(choices[0]?.finish_reason, 'stop');
  });

  it('takes 64 stop strings, and none in an empty list or an empty string', async () => {
    const body = { prompt: 'The function', max_tokens: 8, temperature: 0 };
    const whole = await complete(body);
    for (const stop of [[], '', [''], Array.from({ length: 64 }, (_, i) => `@@${i}`)]) {
      assert.equal((await complete({ ...body, stop })).choices[0]?.text, whole.choices[0]?.text);
    }
  });

  it('echoes the prompt as it was written', async () => {
    const prompt = "L'été, « où »  est-il ?\n";
    const { choices } = await complete({ prompt, echo: true, max_tokens: 3, temperature: 0 });
    assert.ok(choices[0]?.text.startsWith(prompt));
  });

  it('applies logit_bias', async () => {
    const [id] = await server.engine.tokenize('z', false);
    const { choices } = await complete({
      prompt: 'a',
      max_tokens: 3,
      temperature: 0,
      logit_bias: { [String(id)]: 100 },
    });
    assert.equal(choices[0]?.text, 'zzz');
  });

  describe('log-probabilities, as lm-evaluation-harness reads them', () => {
    const scoring = { max_tokens: 1, temperature: 0, logprobs: 1, seed: 1234, echo: true };

    it('have exactly one entry a prompt token and one for the generated token, for prompts of ids', async () => {
      const prompts = [await server.engine.tokenize('int main(void) {', false), [5], [9, 8, 7, 6]];
      const { choices, usage } = await complete({ prompt: prompts, ...scoring });
      choices.forEach((choice, index) => {
        const entries = (prompts[index] as number[]).length + 1;
        const { tokens, token_logprobs, top_logprobs, text_offset } = choice.logprobs as Logprobs;
        assert.deepEqual(
          [tokens.length, token_logprobs.length, top_logprobs.length, text_offset.length],
          [entries, entries, entries, entries],
        );
      });
      assert.equal(usage.prompt_tokens, prompts.flat().length, 'no BOS is added to ids');
    });

    it('begin with null, and always have the token itself, with the same double', async () => {
      const { choices } = await complete({ prompt: 'Die Straße führt zum Fluß', ...scoring, max_tokens: 4 });
      const { tokens, token_logprobs, top_logprobs } = choices[0]?.logprobs as Logprobs;
      assert.equal(token_logprobs[0], null);
      assert.equal(top_logprobs[0], null);
      for (let i = 1; i < tokens.length; i++) {
        const top = top_logprobs[i] as Record<string, number>;
        assert.equal(top[tokens[i] as string], token_logprobs[i]);
        assert.ok(Object.keys(top).length <= 2);
      }
    });

    it('say greedy for what greedy decoding wrote', async () => {
      const prompt = await server.engine.tokenize('The function returns', false);
      const first = await complete({ prompt, max_tokens: 8, temperature: 0, logprobs: 1, ignore_eos: true });
      const logprobs = first.choices[0]?.logprobs as Logprobs;
      logprobs.token_logprobs.forEach((logprob, i) => {
        assert.equal(logprob, Math.max(...Object.values(logprobs.top_logprobs[i] as Record<string, number>)));
      });
      assert.equal(logprobs.tokens.length, 8);
    });

    it('score the prompt alone with max_tokens 0', async () => {
      const prompt = await server.engine.tokenize('The function returns', false);
      const alone = await complete({ prompt, ...scoring, max_tokens: 0 });
      const more = await complete({ prompt, ...scoring });
      assert.equal(alone.choices[0]?.finish_reason, 'length');
      assert.equal(alone.usage.completion_tokens, 0);
      assert.deepEqual(
        alone.choices[0]?.logprobs?.token_logprobs,
        more.choices[0]?.logprobs?.token_logprobs.slice(0, prompt.length),
      );
    });

    it('give characters of the text for text_offset', async () => {
      const prompt = 'Où est 日本 ?';
      const { choices } = await complete({ prompt, ...scoring });
      const { tokens, text_offset } = choices[0]?.logprobs as Logprobs;
      const characters = [...(choices[0]?.text ?? '')];
      tokens.forEach((token, i) => {
        if (token.startsWith('bytes:') || token.startsWith('<|')) return;
        const at = text_offset[i] as number;
        assert.equal(characters.slice(at, at + [...token].length).join(''), token);
      });
    });

    it('keep apart the keys of tokens that are no characters by themselves', async () => {
      const { choices } = await complete({ prompt: '日本語', ...scoring, logprobs: 20 });
      for (const top of choices[0]?.logprobs?.top_logprobs.slice(1) ?? []) {
        assert.ok(Object.keys(top as object).length >= 20);
      }
    });
  });

  describe('refuses, naming the field,', () => {
    const cases: [title: string, body: unknown, param: string | null, message: RegExp, code?: string][] = [
      ['a missing prompt', {}, 'prompt', /expected a string, .* for prompt but received nothing/],
      ['a prompt of null', { prompt: null }, 'prompt', /for prompt but received null/],
      ['an empty list of prompts', { prompt: [] }, 'prompt', /none of them empty/],
      ['an empty list of ids', { prompt: [[1], []] }, 'prompt', /none of them empty/],
      ['prompts of two kinds', { prompt: ['a', 1] }, 'prompt', /for prompt but received \["a",1\]/],
      ['a negative max_tokens', { prompt: 'a', max_tokens: -1 }, 'max_tokens', /an integer from 0 on .* received -1/],
      ['a text for max_tokens', { prompt: 'a', max_tokens: '5' }, 'max_tokens', /received "5"/],
      ['21 logprobs', { prompt: 'a', logprobs: 21 }, 'logprobs', /an integer from 0 to 20/],
      ['a temperature below 0', { prompt: 'a', temperature: -0.1 }, 'temperature', /received -0\.1/],
      ['a top_p above 1', { prompt: 'a', top_p: 1.1 }, 'top_p', /from 0 to 1/],
      ['n = 0', { prompt: 'a', n: 0 }, 'n', /from 1 to 128/],
      ['too many choices', { prompt: Array(100).fill('a'), n: 100 }, 'prompt', /4096 choices but .* 10000/],
      ['a stop of numbers', { prompt: 'a', stop: [1] }, 'stop', /up to 64 strings/],
      ['a logit_bias for no token', { prompt: 'a', logit_bias: { x: 1 } }, 'logit_bias', /0 to 4095 as keys/],
      ['a logit_bias outside the vocabulary', { prompt: 'a', logit_bias: { 4096: 1 } }, 'logit_bias', /0 to 4095/],
      ['best_of other than n', { prompt: 'a', best_of: 3 }, 'best_of', /equal n \(1\) but received 3/, 'unsupported'],
      ['a suffix', { prompt: 'a', suffix: 'b' }, 'suffix', /no suffix/, 'unsupported'],
      ['a token id outside the vocabulary', { prompt: [4096] }, 'prompt', /0 to 4095 .* received 4096/],
      ['a list as the body', [], null, /a JSON object as the body but received \[\]/],
      ['what is no JSON', '{"prompt": ', null, /a JSON object as the body: /],
    ];
    for (const [title, body, param, message, code = 'invalid_request'] of cases) {
      it(title, async () => {
        const error = await refused(body);
        assert.equal(error.status, 400);
        assert.equal(error.code, code);
        assert.equal(error.type, 'invalid_request_error');
        assert.equal(error.param, param);
        assert.match(error.message, message);
      });
    }

    it('a prompt longer than the context, with the numbers', async () => {
      const error = await refused({ prompt: Array(1020).fill(5), max_tokens: 10 });
      assert.equal(error.status, 400);
      assert.equal(error.code, 'context_length_exceeded');
      assert.match(error.message, /1024 .* 1020 .* 10/);
    });
  });

  it('reads a body whatever its type says, but no form and no XML', async () => {
    const body = JSON.stringify({ prompt: 'a', max_tokens: 1 });
    for (const type of ['application/json; charset=utf-8', 'application/x-www-form-urlencoded', 'text/plain']) {
      const response = await server.post('/v1/completions', body, { 'Content-Type': type });
      assert.equal(response.status, 200, type);
    }
    for (const type of ['multipart/form-data; boundary=x', 'application/xml']) {
      const error = await refusal(await server.post('/v1/completions', body, { 'Content-Type': type }));
      assert.equal(error.status, 415);
    }
  });

  it('names the methods that it has', async () => {
    const response = await server.get('/v1/completions');
    assert.equal(response.headers.get('allow'), 'POST');
    assert.equal((await refusal(response)).code, 'method_not_allowed');
  });

  it('keeps a client’s request id, and makes one where there is none', async () => {
    const kept = await server.post('/v1/completions', { prompt: 'a' }, { 'X-Request-Id': 'abc-1' });
    assert.equal(kept.headers.get('x-request-id'), 'abc-1');
    const made = await server.post('/v1/completions', { prompt: 'a' }, { 'X-Request-Id': 'a b "c"' });
    assert.match(made.headers.get('x-request-id') ?? '', /^[0-9a-f-]{36}$/);
  });
});
