import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { native } from '../../../kernels/index.js';
import { startEngine } from '../../../server/engine/engine-client.js';
import type { Engine, GenerateEvent, GenerateRequest } from '../../../server/engine/types.js';
import { ServerError } from '../../../server/errors.js';
import { TINY } from '../../tiny.js';

let engine: Engine;
/** Native memory of a loaded model that runs nothing. */
let restingBytes: number;
before(async () => {
  engine = await startEngine({ modelDirectory: TINY, threads: 1, maxRunning: 2, maxQueue: 2 });
  restingBytes = native.usage().bytes;
});
after(() => engine.close(0));

const GREEDY: GenerateRequest = {
  prompt: 'function add(a, b) {',
  addSpecialTokens: true,
  maxTokens: 12,
  temperature: 0,
  topK: 0,
  topP: 1,
  stop: [],
  echo: false,
  ignoreEos: false,
  logitBias: [],
  presencePenalty: 0,
  frequencyPenalty: 0,
  weights: null,
};

async function run(request: Partial<GenerateRequest>, signal = new AbortController().signal): Promise<GenerateEvent[]> {
  const events: GenerateEvent[] = [];
  for await (const event of engine.generate({ ...GREEDY, ...request }, signal)) events.push(event);
  return events;
}

function textOf(events: readonly GenerateEvent[]): string {
  return events.map((event) => (event.type === 'delta' ? event.text : '')).join('');
}

function rejectsWith(code: string, message: RegExp) {
  return (error: unknown): boolean => {
    assert.ok(error instanceof ServerError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  };
}

test('greedy text is that of Hugging Face transformers', async () => {
  const events = await run({ maxTokens: 32 });
  const expected =
    '}\n\n/**\n * @param {number} [number] - The number of b.\n * @param {number} [number] - The number of b.\n';
  assert.ok(textOf(events).startsWith(expected.slice(0, 60)), textOf(events));
});

test('events come as prompt, deltas, done with usage', async () => {
  const events = await run({});
  assert.equal(events[0]?.type, 'prompt');
  const last = events.at(-1);
  assert.ok(last?.type === 'done');
  assert.deepEqual([last.finishReason, last.promptTokens, last.completionTokens], ['length', 8, 12]);
});

test('the same seed gives the same text, another seed another', async () => {
  const draw = async (seed: number): Promise<string> => textOf(await run({ temperature: 1, seed, maxTokens: 24 }));
  assert.equal(await draw(1), await draw(1));
  assert.notEqual(await draw(1), await draw(2));
});

test('text does not depend on what else is running', async () => {
  const alone = textOf(await run({ temperature: 1, seed: 3, maxTokens: 24 }));
  const [together] = await Promise.all([run({ temperature: 1, seed: 3, maxTokens: 24 }), run({ maxTokens: 30 })]);
  assert.equal(textOf(together as GenerateEvent[]), alone);
});

test('top-k 1 and a tiny top-p are greedy', async () => {
  const greedy = textOf(await run({}));
  assert.equal(textOf(await run({ temperature: 1.5, topK: 1, seed: 5 })), greedy);
  assert.equal(textOf(await run({ temperature: 1.5, topP: 1e-9, seed: 6 })), greedy);
});

test('a logit bias of -100 keeps a token out, +100 forces it', async () => {
  const [first] = await run({ logprobs: 0, maxTokens: 1 }).then((events) =>
    events.flatMap((event) => (event.type === 'delta' ? event.tokens : [])),
  );
  const events = await run({ maxTokens: 1, logprobs: 0, logitBias: [[first!.id, -100]] });
  const other = events.flatMap((event) => (event.type === 'delta' ? event.tokens : []))[0];
  assert.notEqual(other?.id, first!.id);
  const forced = await run({ maxTokens: 3, logprobs: 0, logitBias: [[500, 100]] });
  const ids = forced.flatMap((event) => (event.type === 'delta' ? event.tokens.map((token) => token.id) : []));
  assert.deepEqual(ids, [500, 500, 500]);
});

test('a stop string ends the text before it, across token borders', async () => {
  const whole = textOf(await run({ maxTokens: 32 }));
  const stop = whole.slice(9, 16);
  const events = await run({ maxTokens: 32, stop: [stop] });
  assert.equal(textOf(events), whole.slice(0, whole.indexOf(stop)));
  const last = events.at(-1);
  assert.equal(last?.type === 'done' && last.finishReason, 'stop');
});

test('echo with log-probabilities scores every prompt token but the first', async () => {
  const events = await run({ echo: true, logprobs: 2, maxTokens: 0 });
  const [prompt] = events;
  assert.ok(prompt?.type === 'prompt');
  assert.equal(prompt.text, 'function add(a, b) {');
  const reference = [null, -6.51928, -4.17085, -8.63519, -0.09286, -1.62317, -1.72535, -2.30695];
  assert.equal(prompt.tokens.length, reference.length);
  prompt.tokens.forEach(({ logprob }, i) => {
    const expected = reference[i];
    if (typeof expected === 'number') assert.ok(Math.abs((logprob ?? 0) - expected) < 0.05, `${i}: ${logprob}`);
    else assert.equal(logprob, null);
  });
});

test('prompt scores are the same in one chunk and over chunk borders', async () => {
  const ids = Array.from({ length: 600 }, (_, i) => (i * 37) % 4096);
  const tokensOf = async (prompt: number[]) => {
    const [event] = await run({ prompt, echo: true, logprobs: 0, maxTokens: 0 });
    assert.ok(event?.type === 'prompt');
    return event.tokens.map((token) => token.logprob);
  };
  const long = await tokensOf(ids);
  const short = await tokensOf(ids.slice(0, 200));
  assert.equal(long.length, 600);
  assert.deepEqual(long.slice(0, 200), short);
});

test('a prompt that does not fit is refused with the numbers', async () => {
  await assert.rejects(
    run({ prompt: new Array<number>(1020).fill(5), maxTokens: 16 }),
    rejectsWith(
      'context_length_exceeded',
      /context is 1024 tokens, but the prompt has 1020 and max_tokens asks for 16/,
    ),
  );
});

test('a token id outside the vocabulary, or no token, is refused', async () => {
  await assert.rejects(run({ prompt: [1, 4096] }), rejectsWith('invalid_request', /from 0 to 4095 .* received 4096/));
  await assert.rejects(run({ prompt: [] }), rejectsWith('invalid_request', /at least one token/));
});

test('a full queue says so, and empties', async () => {
  const runs = Array.from({ length: 6 }, () => run({ maxTokens: 40 }));
  const settled = await Promise.allSettled(runs);
  const failed = settled.filter((result) => result.status === 'rejected');
  assert.equal(failed.length, 2);
  for (const { reason } of failed) assert.ok(rejectsWith('queue_full', /the queue is full: 4 requests/)(reason));
  await run({});
});

test('an aborted sequence is freed at once', async () => {
  const controller = new AbortController();
  const iterator = engine.generate({ ...GREEDY, prompt: [5], maxTokens: 1000, ignoreEos: true }, controller.signal);
  assert.equal((await iterator.next()).value?.type, 'prompt');
  controller.abort(new Error('gone'));
  await assert.rejects(async () => {
    for (;;) if ((await iterator.next()).done) return;
  }, /gone/);
  const deadline = Date.now() + 2000;
  const freed = (): boolean => native.usage().bytes === restingBytes && engine.stats().running === 0;
  while (!freed() && Date.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  assert.deepEqual([native.usage().bytes, engine.stats().running], [restingBytes, 0]);
});

test('perplexity and echoed log-probabilities agree', async () => {
  const documents = ['const answer = 42;\n'.repeat(120)];
  const result = await engine.evaluate(
    { documents, windows: 2, windowLength: 256, bos: true, weights: null },
    new AbortController().signal,
  );
  const ids = await engine.tokenize(documents[0] as string, true);
  let nll = 0;
  for (const start of [0, 256]) {
    const [event] = await run({ prompt: ids.slice(start, start + 257), echo: true, logprobs: 0, maxTokens: 0 });
    assert.ok(event?.type === 'prompt');
    for (const { logprob } of event.tokens.slice(1)) nll -= logprob as number;
  }
  assert.equal(result.tokens, 512);
  assert.ok(Math.abs(result.nll - nll / 512) < 1e-9, `${result.nll} ${nll / 512}`);
});
