/** POST /v1/completions: body → task → lease → sequences → JSON or server-sent events. */
import { randomUUID } from 'node:crypto';
import { Router, type Request, type Response } from 'express';
import type { GenerateEvent, GenerateRequest } from '../engine/types.js';
import { ChoiceText, joinPieces, UsageCount, type CompletionChoice, type Envelope } from './completion-response.js';
import { completionRequests, parseCompletion, type CompletionBody } from './completion-schema.js';
import { methodNotAllowed } from './error-handler.js';
import { generate, generateStream, type Generation } from './generation.js';
import { jsonBody } from './json-body.js';
import type { Parts } from './parts.js';
import { wantsUsage } from './sampling-schema.js';
import { chooseTask, fingerprint, type ChosenTask } from './task.js';

export function completionsRouter(parts: Parts): Router {
  const router = Router();
  router
    .route('/v1/completions')
    .post(jsonBody(parts.config.maxBodyBytes, parts.limits.jsonBody), (req, res) => complete(req, res, parts))
    .all(methodNotAllowed('POST'));
  return router;
}

async function complete(req: Request, res: Response, parts: Parts): Promise<void> {
  const startedAt = performance.now();
  const body = parseCompletion(req.body);
  const chosen = await chooseTask(req, res, body.model, parts);
  const requests = completionRequests(body, parts.engine.model);
  const generation: Generation = { requests, chosen, startedAt, parts, res };
  const envelope = envelopeOf(body, chosen, parts);
  const choices = requests.map((request, index) => choiceText(request, index, parts));
  const usage = new UsageCount(body.n ?? 1);
  if (body.stream) await stream(generation, choices, usage, envelope, wantsUsage(body));
  else await answer(generation, choices, usage, envelope);
}

async function answer(
  generation: Generation,
  choices: readonly ChoiceText[],
  usage: UsageCount,
  envelope: Envelope,
): Promise<void> {
  const pieces: CompletionChoice[][] = choices.map(() => []);
  await generate(generation, (index, event) => {
    usage.count(index, event);
    const piece = choices[index]?.piece(event);
    if (piece) pieces[index]?.push(piece);
  });
  generation.res.json({
    ...envelope,
    choices: pieces.map((parts, index) => joinPieces(index, parts)),
    usage: usage.total(),
  });
}

async function stream(
  generation: Generation,
  choices: readonly ChoiceText[],
  usage: UsageCount,
  envelope: Envelope,
  withUsage: boolean,
): Promise<void> {
  const chunkOf = (index: number, event: GenerateEvent): unknown => {
    usage.count(index, event);
    const piece = choices[index]?.piece(event);
    return piece && { ...envelope, choices: [piece], ...(withUsage ? { usage: null } : {}) };
  };
  const last = (): unknown => (withUsage ? { ...envelope, choices: [], usage: usage.total() } : undefined);
  await generateStream(generation, chunkOf, last);
}

function envelopeOf(body: CompletionBody, chosen: ChosenTask, { engine }: Parts): Envelope {
  return {
    id: `cmpl-${randomUUID()}`,
    object: 'text_completion',
    created: Math.floor(Date.now() / 1000),
    model: body.model || engine.model.name,
    system_fingerprint: fingerprint(engine.model, chosen),
  };
}

function choiceText(request: Omit<GenerateRequest, 'weights'>, index: number, { engine }: Parts): ChoiceText {
  return new ChoiceText(
    {
      index,
      echo: request.echo,
      logprobs: request.logprobs !== undefined,
      promptText: typeof request.prompt === 'string' ? request.prompt : undefined,
    },
    engine.model,
  );
}
