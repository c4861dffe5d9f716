import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { eventsOf, refusal, startRealServer, type RealServer } from './real-server.js';

const TEMPLATE =
  "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";

interface Chat {
  id: string;
  object: string;
  choices: {
    index: number;
    message: { role: string; content: string; refusal: null };
    delta: { role?: string; content?: string };
    logprobs: { content: { token: string; logprob: number; bytes: number[]; top_logprobs: unknown[] }[] } | null;
    finish_reason: string | null;
  }[];
  usage: { prompt_tokens: number; completion_tokens: number };
}

describe('POST /v1/chat/completions', () => {
  let server: RealServer;
  before(async () => {
    server = await startRealServer({ tokenizerSettings: { chat_template: TEMPLATE } });
  });
  after(() => server.close());

  const messages = [
    { role: 'system', content: 'Be short.' },
    { role: 'user', content: 'What does read() return?' },
  ];
  const rendered = 'system: Be short.\nuser: What does read() return?\nassistant:';

  async function chat(body: object): Promise<Chat> {
    const response = await server.post('/v1/chat/completions', { max_tokens: 8, temperature: 0, ...body });
    assert.equal(response.status, 200, await response.clone().text());
    return (await response.json()) as Chat;
  }

  it('answers what /v1/completions answers to the rendered template', async () => {
    const answer = await chat({ messages });
    assert.match(answer.id, /^chatcmpl-/);
    assert.equal(answer.object, 'chat.completion');
    const completion = await server.post('/v1/completions', { prompt: rendered, max_tokens: 8, temperature: 0 });
    const { choices, usage } = (await completion.json()) as { choices: { text: string }[]; usage: Chat['usage'] };
    assert.deepEqual(answer.choices[0]?.message, { role: 'assistant', content: choices[0]?.text, refusal: null });
    assert.equal(answer.choices[0]?.finish_reason, 'length');
    assert.equal(answer.choices[0]?.logprobs, null);
    assert.deepEqual(answer.usage, usage);
  });

  it('takes parts of text, a developer and no content, and max_completion_tokens over max_tokens', async () => {
    const parts = [
      {
        role: 'developer',
        content: [
          { type: 'text', text: 'Be ' },
          { type: 'text', text: 'short.' },
        ],
      },
      { role: 'user', content: 'What does read() return?' },
    ];
    const whole = await chat({ messages });
    assert.equal((await chat({ messages: parts })).choices[0]?.message.content, whole.choices[0]?.message.content);
    const { usage } = await chat({ messages: parts, max_completion_tokens: 3, ignore_eos: true });
    assert.equal(usage.completion_tokens, 3);
    await chat({ messages: [...messages, { role: 'assistant', content: null }] });
  });

  it('fills the context where no limit is given', async () => {
    const response = await server.post('/v1/chat/completions', { messages, temperature: 1, seed: 1, ignore_eos: true });
    const { usage, choices } = (await response.json()) as Chat;
    assert.equal(usage.prompt_tokens + usage.completion_tokens, 1024);
    assert.equal(choices[0]?.finish_reason, 'length');
  });

  it('streams a role, contents, and a reason at the end', async () => {
    const body = {
      messages,
      max_tokens: 8,
      temperature: 0,
      n: 2,
      stream: true,
      stream_options: { include_usage: true },
    };
    const events = eventsOf(await (await server.post('/v1/chat/completions', body)).text());
    assert.equal(events.pop(), '[DONE]');
    const chunks = events.map((event) => JSON.parse(event) as Chat);
    assert.ok(chunks.every((chunk) => chunk.object === 'chat.completion.chunk'));
    assert.deepEqual(chunks.pop()?.choices, []);
    const whole = await chat({ messages });
    for (const index of [0, 1]) {
      const own = chunks.flatMap((chunk) => chunk.choices).filter((choice) => choice.index === index);
      assert.deepEqual(own[0]?.delta, { role: 'assistant', content: '' });
      assert.deepEqual(own[own.length - 1]?.delta, {});
      assert.equal(own[own.length - 1]?.finish_reason, 'length');
      assert.equal(own.map((choice) => choice.delta.content ?? '').join(''), whole.choices[0]?.message.content);
    }
  });

  it('gives log-probabilities in chat’s own shape', async () => {
    const { choices } = await chat({ messages, logprobs: true, top_logprobs: 2, ignore_eos: true });
    const content = choices[0]?.logprobs?.content ?? [];
    assert.equal(content.length, 8);
    for (const entry of content) {
      assert.ok(entry.logprob <= 0);
      assert.equal(entry.top_logprobs.length, 2);
    }
    const text = Buffer.from(content.flatMap((entry) => entry.bytes)).toString();
    assert.equal(text, choices[0]?.message.content);
  });

  it('lets pass what changes nothing, and refuses by name what would', async () => {
    const harmless = { tools: [], tool_choice: 'none', response_format: { type: 'text' }, store: true, metadata: {} };
    await chat({ messages, ...harmless, reasoning_effort: 'low', functions: null, tools: null });
    for (const [param, value] of Object.entries({
      tools: [{ type: 'function' }],
      tool_choice: 'required',
      response_format: { type: 'json_object' },
      functions: [{}],
      modalities: ['audio'],
    })) {
      const error = await refusal(await server.post('/v1/chat/completions', { messages, [param]: value }));
      assert.deepEqual([error.status, error.code, error.param], [400, 'unsupported', param]);
    }
    const image = [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x' } }] }];
    const error = await refusal(await server.post('/v1/chat/completions', { messages: image }));
    assert.deepEqual([error.code, error.param], ['unsupported', 'messages[0].content']);
  });

  it('refuses messages that are none, naming them', async () => {
    for (const [given, param] of [
      [undefined, 'messages'],
      [[], 'messages'],
      [[{ content: 'a' }], 'messages[0].role'],
      [[{ role: 'tool', content: 'a' }], 'messages[0].role'],
      [[{ role: 'user', content: 5 }], 'messages[0].content'],
    ] as const) {
      const error = await refusal(await server.post('/v1/chat/completions', { messages: given }));
      assert.deepEqual([error.status, error.code, error.param], [400, 'invalid_request', param]);
    }
  });
});

describe('chat with a model that has no template', () => {
  it('is refused, and says what to use', async () => {
    const server = await startRealServer();
    try {
      const body = { messages: [{ role: 'user', content: 'hello' }] };
      const error = await refusal(await server.post('/v1/chat/completions', body));
      assert.deepEqual([error.status, error.code], [400, 'unsupported']);
      assert.match(error.message, /\/v1\/completions/);
    } finally {
      await server.close();
    }
  });
});
