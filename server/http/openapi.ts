/** GET /openapi.json: the API as OpenAPI 3.1, over the very schemas that requests are checked against. */
import { Router } from 'express';
import type { SchemaObject } from 'ajv';
import { ERROR_CODES } from '../errors.js';
import { CHAT_SCHEMA } from './chat-schema.js';
import { COMPLETION_SCHEMA } from './completion-schema.js';
import { methodNotAllowed } from './error-handler.js';
import { EVALUATE_SCHEMA } from './evaluate.js';
import { ROLLBACK_SCHEMA } from './masks.js';
import { TRAIN_SCHEMA } from '../jobs/request.js';
import { DETOKENIZE_SCHEMA, TOKENIZE_SCHEMA } from './tokenize.js';

type Operation = Readonly<Record<string, unknown>>;

const X_TASK = {
  name: 'X-Task',
  in: 'header',
  schema: { type: 'string' },
  description: 'NAME or NAME@sha256:DIGEST; wins over the part of `model` after ":"; "dense" is the unmasked base',
};
const TASK_PATH = { name: 'task', in: 'path', required: true, schema: { type: 'string' } };
const JOB_PATH = { name: 'id', in: 'path', required: true, schema: { type: 'string' } };
const IF_MATCH = {
  name: 'If-Match',
  in: 'header',
  schema: { type: 'string' },
  description: 'the ETag it must have now',
};
const IF_NONE_MATCH = {
  name: 'If-None-Match',
  in: 'header',
  schema: { type: 'string' },
  description: '* : must not exist',
};
const REPR_DIGEST = {
  name: 'Repr-Digest',
  in: 'header',
  schema: { type: 'string' },
  description: 'sha-256=:BASE64: of the bytes (RFC 9530), checked before anything is published',
};
const FLATTEN = {
  name: 'flatten',
  in: 'query',
  schema: { type: 'string', enum: ['1', '0'] },
  description: '1: a mask that is coded against its parent comes as a container that decodes by itself; no ranges',
};
const BYTES = { 'application/octet-stream': { schema: { type: 'string', format: 'binary' } } };

export const OPENAPI = {
  openapi: '3.1.0',
  info: {
    title: 'maskserve',
    version: '1',
    description: 'Many tasks from one frozen model: each task is a 2:4 mask, chosen by X-Task.',
  },
  components: {
    securitySchemes: { key: { type: 'http', scheme: 'bearer' } },
    schemas: {
      CompletionRequest: COMPLETION_SCHEMA,
      ChatRequest: CHAT_SCHEMA,
      EvaluateRequest: EVALUATE_SCHEMA,
      RollbackRequest: ROLLBACK_SCHEMA,
      TokenizeRequest: TOKENIZE_SCHEMA,
      DetokenizeRequest: DETOKENIZE_SCHEMA,
      TrainRequest: TRAIN_SCHEMA,
      Error: errorSchema(),
    },
  },
  security: [{ key: [] }],
  paths: {
    '/v1/completions': { post: generation('Complete text', 'CompletionRequest') },
    '/v1/chat/completions': { post: generation('Complete a chat by the chat template of the model', 'ChatRequest') },
    '/v1/eval': {
      post: { ...operation('Perplexity of documents', 'EvaluateRequest'), parameters: [X_TASK] },
    },
    '/v1/models': { get: operation('The base and the tasks that the key may use') },
    '/v1/models/{id}': { get: { ...operation('One of them'), parameters: [{ ...TASK_PATH, name: 'id' }] } },
    '/v1/masks': { get: operation('Published and shipped masks') },
    '/v1/masks/{task}': {
      parameters: [TASK_PATH],
      get: {
        ...operation('The container; with Accept: application/json, what is known of it'),
        parameters: [{ name: 'Range', in: 'header', schema: { type: 'string' } }, FLATTEN],
      },
      put: {
        ...operation('Publish a mask'),
        parameters: [IF_MATCH, IF_NONE_MATCH, REPR_DIGEST],
        requestBody: { required: true, content: BYTES },
      },
      delete: { ...operation('Remove a task and its versions'), parameters: [IF_MATCH] },
    },
    '/v1/masks/{task}/versions': { parameters: [TASK_PATH], get: operation('Versions, newest first') },
    '/v1/masks/{task}/rollback': {
      parameters: [TASK_PATH],
      post: { ...operation('Back to an earlier version', 'RollbackRequest'), parameters: [IF_MATCH] },
    },
    '/v1/train': {
      get: operation('Training jobs, newest first'),
      post: {
        ...operation(
          "Learn a task's mask from text and publish it; 202 when the job is on stable storage",
          'TrainRequest',
        ),
        parameters: [IF_MATCH, IF_NONE_MATCH],
      },
    },
    '/v1/train/{id}': {
      parameters: [JOB_PATH],
      get: operation('A job: its state, its last event, what it published'),
      delete: operation('Cancel a job; one that is over is forgotten (204)'),
    },
    '/v1/train/{id}/events': {
      parameters: [JOB_PATH],
      get: operation('Server-sent events: the past in short, then live, until the job is over and data: [DONE]'),
    },
    '/tokenize': { post: operation('Text to token ids', 'TokenizeRequest') },
    '/detokenize': { post: operation('Token ids to text', 'DetokenizeRequest') },
    '/tokenizer_info': { get: operation('Special tokens and chat template') },
    '/healthz': { get: open('The process answers') },
    '/readyz': { get: open('It takes requests; 503 while it drains') },
    '/metrics': { get: operation('Prometheus') },
    '/openapi.json': { get: open('This document') },
  },
};

export function openapiRouter(): Router {
  const router = Router();
  router
    .route('/openapi.json')
    .get((_req, res) => void res.json(OPENAPI))
    .all(methodNotAllowed('GET, HEAD'));
  return router;
}

function operation(summary: string, schema?: string): Operation {
  return {
    summary,
    ...(schema === undefined ? {} : { requestBody: { required: true, content: jsonOf(schema) } }),
    responses: {
      '2XX': { description: 'done' },
      default: { description: 'refused or failed', content: jsonOf('Error') },
    },
  };
}

function generation(summary: string, schema: string): Operation {
  const { responses, ...rest } = operation(summary, schema);
  return {
    ...rest,
    parameters: [X_TASK],
    responses: {
      ...(responses as Record<string, unknown>),
      '200': {
        description: 'JSON, or with stream: true server-sent events that end with data: [DONE]',
        content: { 'application/json': {}, 'text/event-stream': {} },
      },
    },
  };
}

/** For every caller: no key asked. */
function open(summary: string): Operation {
  return { ...operation(summary), security: [] };
}

function jsonOf(schema: string): Record<string, unknown> {
  return { 'application/json': { schema: { $ref: `#/components/schemas/${schema}` } } };
}

function errorSchema(): SchemaObject {
  return {
    type: 'object',
    required: ['error'],
    properties: {
      error: {
        type: 'object',
        required: ['message', 'type', 'param', 'code'],
        properties: {
          message: { type: 'string' },
          type: { type: 'string' },
          param: { type: ['string', 'null'] },
          code: { type: 'string', enum: Object.keys(ERROR_CODES) },
        },
      },
    },
  };
}
