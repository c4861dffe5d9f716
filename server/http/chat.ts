/** POST /v1/chat/completions: messages → the model's chat template → the same path as completions, in chat's shapes. */
import { randomUUID } from 'node:crypto';
import { Router, type Request, type Response } from 'express';
import type { FinishReason, GenerateEvent, GenerateRequest } from '../engine/types.js';
import { ServerError } from '../errors.js';
import { parseChat, plainMessages, type ChatBody } from './chat-schema.js';
import { UsageCount, type Envelope } from './completion-response.js';
import { methodNotAllowed } from './error-handler.js';
import { generate, generateStream, type Generation } from './generation.js';
import { jsonBody } from './json-body.js';
import { chatLogprobs, type ChatLogprobs } from './logprobs.js';
import type { Parts } from './parts.js';
import { samplingSettings, seedOf, wantsUsage } from './sampling-schema.js';
import { chooseTask, fingerprint, type ChosenTask } from './task.js';
import { checkTextLength } from './tokenize.js';

interface Delta {
  readonly role?: 'assistant';
  readonly content?: string;
}

export function chatRouter(parts: Parts): Router {
  const router = Router();
  router
    .route('/v1/chat/completions')
    .post(jsonBody(parts.config.maxBodyBytes, parts.limits.jsonBody), (req, res) => chat(req, res, parts))
    .all(methodNotAllowed('POST'));
  return router;
}

async function chat(req: Request, res: Response, parts: Parts): Promise<void> {
  const startedAt = performance.now();
  const body = parseChat(req.body);
  const chosen = await chooseTask(req, res, body.model, parts);
  const requests = await chatRequests(body, parts);
  const generation: Generation = { requests, chosen, startedAt, parts, res };
  const usage = new UsageCount(requests.length);
  if (body.stream) await stream(generation, usage, envelopeOf(body, chosen, parts, 'chat.completion.chunk'), body);
  else await answer(generation, usage, envelopeOf(body, chosen, parts, 'chat.completion'), body);
}

async function answer(generation: Generation, usage: UsageCount, envelope: Envelope, body: ChatBody): Promise<void> {
  const texts = generation.requests.map(() => '');
  const logprobs = generation.requests.map((): ChatLogprobs[] => []);
  const reasons = generation.requests.map((): FinishReason | null => null);
  await generate(generation, (index, event) => {
    usage.count(index, event);
    if (event.type === 'delta') {
      texts[index] += event.text;
      logprobs[index]?.push(...chatLogprobs(event.tokens));
    }
    if (event.type === 'done') reasons[index] = event.finishReason;
  });
  const choices = texts.map((content, index) => ({
    index,
    message: { role: 'assistant', content, refusal: null },
    logprobs: body.logprobs ? { content: logprobs[index] ?? [], refusal: null } : null,
    finish_reason: reasons[index],
  }));
  generation.res.json({ ...envelope, choices, usage: usage.total() });
}

async function stream(generation: Generation, usage: UsageCount, envelope: Envelope, body: ChatBody): Promise<void> {
  const withUsage = wantsUsage(body);
  const chunk = (index: number, delta: Delta, tokens: ChatLogprobs[], finish: FinishReason | null): unknown => ({
    ...envelope,
    choices: [
      {
        index,
        delta,
        logprobs: body.logprobs && tokens.length > 0 ? { content: tokens, refusal: null } : null,
        finish_reason: finish,
      },
    ],
    ...(withUsage ? { usage: null } : {}),
  });
  const chunkOf = (index: number, event: GenerateEvent): unknown => {
    usage.count(index, event);
    if (event.type === 'prompt') return chunk(index, { role: 'assistant', content: '' }, [], null);
    if (event.type === 'delta') return chunk(index, { content: event.text }, chatLogprobs(event.tokens), null);
    return chunk(index, {}, [], event.finishReason);
  };
  await generateStream(generation, chunkOf, () =>
    withUsage ? { ...envelope, choices: [], usage: usage.total() } : undefined,
  );
}

async function chatRequests(body: ChatBody, { engine }: Parts): Promise<Omit<GenerateRequest, 'weights'>[]> {
  const settings = samplingSettings(body, engine.model);
  const prompt = await renderPrompt(body, engine);
  const maxTokens = body.max_completion_tokens ?? body.max_tokens ?? roomAfter(prompt, engine.model.contextLength);
  return Array.from({ length: body.n ?? 1 }, (_, j) => ({
    ...settings,
    ...seedOf(body.seed, j),
    ...(body.logprobs ? { logprobs: body.top_logprobs ?? 0 } : {}),
    prompt,
    addSpecialTokens: false,
    maxTokens,
    echo: false,
  }));
}

/** The template writes the model's special tokens itself, so that the tokenizer must not add its own. */
async function renderPrompt(body: ChatBody, engine: Parts['engine']): Promise<number[]> {
  const text = await engine.renderChat(plainMessages(body.messages));
  checkTextLength(text, 'messages');
  return engine.tokenize(text, false);
}

/** Without a limit an answer may fill the context, as OpenAI's do. */
function roomAfter(prompt: readonly number[], contextLength: number): number {
  const room = contextLength - prompt.length;
  if (room > 0) return room;
  throw new ServerError(
    'context_length_exceeded',
    `this model's context is ${contextLength} tokens, but the messages have ${prompt.length}; shorten them`,
    { param: 'messages' },
  );
}

function envelopeOf(body: ChatBody, chosen: ChosenTask, { engine }: Parts, object: string): Envelope {
  return {
    id: `chatcmpl-${randomUUID()}`,
    object,
    created: Math.floor(Date.now() / 1000),
    model: body.model || engine.model.name,
    system_fingerprint: fingerprint(engine.model, chosen),
  };
}
