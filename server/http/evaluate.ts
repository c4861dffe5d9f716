/** POST /v1/eval: perplexity of documents under a task, by the running engine (`maskctl eval` through a server). */
import { Router, type Request, type Response } from 'express';
import type { SchemaObject } from 'ajv';
import type { EvaluateRequest, ModelInfo } from '../engine/types.js';
import { ServerError } from '../errors.js';
import { methodNotAllowed } from './error-handler.js';
import { jsonBody } from './json-body.js';
import { withWeights } from './lease.js';
import type { Parts } from './parts.js';
import { openScope } from './request-scope.js';
import { bodyParser, optional } from './schema.js';
import { chooseTask } from './task.js';

const DEFAULT_WINDOW_LENGTH = 256;
/** Texts to evaluate are larger than prompts: times --max-body-bytes. */
const BODY_FACTOR = 4;

interface EvaluateBody {
  readonly model?: string | null;
  readonly documents: readonly string[];
  readonly windows?: number | null;
  readonly window_length?: number | null;
  readonly separator?: number | null;
  readonly bos?: boolean | null;
}

export const EVALUATE_SCHEMA: SchemaObject = {
  type: 'object',
  required: ['documents'],
  properties: {
    model: optional({ type: 'string', description: 'a model such as "tiny" or "tiny:french"' }),
    documents: {
      type: 'array',
      items: { type: 'string', description: 'a string' },
      minItems: 1,
      description: 'an array of at least one string',
    },
    windows: optional({ type: 'integer', minimum: 1, description: 'an integer from 1 on' }),
    window_length: optional({ type: 'integer', minimum: 1, description: 'an integer from 1 to the context length' }),
    separator: optional({ type: 'integer', minimum: 0, description: 'a token id' }),
    bos: optional({ type: 'boolean', description: 'true or false' }),
  },
};

const parseEvaluate = bodyParser<EvaluateBody>(EVALUATE_SCHEMA);

export function evaluateRouter(parts: Parts): Router {
  const { config, limits } = parts;
  const router = Router();
  router
    .route('/v1/eval')
    .post(jsonBody(config.maxBodyBytes * BODY_FACTOR, limits.jsonBody), (req, res) => evaluate(req, res, parts))
    .all(methodNotAllowed('POST'));
  return router;
}

async function evaluate(req: Request, res: Response, parts: Parts): Promise<void> {
  const body = parseEvaluate(req.body);
  const request = evaluateRequest(body, parts.engine.model);
  const chosen = await chooseTask(req, res, body.model, parts);
  const scope = openScope(res, parts.config.requestTimeoutMs);
  try {
    const result = await withWeights(chosen, parts, scope.signal, (weights) =>
      parts.engine.evaluate({ ...request, weights }, scope.signal),
    );
    res.json({ task: chosen.task, ...result });
  } finally {
    scope.close();
  }
}

function evaluateRequest(body: EvaluateBody, model: ModelInfo): Omit<EvaluateRequest, 'weights'> {
  const { separator, windows } = body;
  const windowLength = body.window_length ?? DEFAULT_WINDOW_LENGTH;
  refuseAbove(windowLength, model.contextLength, 'window_length', "the model's context length");
  const end = separator ?? model.eosIds[0];
  if (end === undefined) {
    throw new ServerError('invalid_request', 'expected a separator: the model names no end-of-text token', {
      param: 'separator',
    });
  }
  refuseAbove(end, model.vocabularySize - 1, 'separator', 'the last token id');
  return {
    documents: body.documents,
    windowLength,
    separator: end,
    bos: body.bos ?? true,
    ...(typeof windows === 'number' ? { windows } : {}),
  };
}

function refuseAbove(value: number, most: number, param: string, name: string): void {
  if (value <= most) return;
  throw new ServerError('invalid_request', `expected at most ${most} (${name}) for ${param} but received ${value}`, {
    param,
  });
}
