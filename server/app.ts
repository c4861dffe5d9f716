/** The express app from its parts; never listens. The order of the lines below is the way of a request. */
import express, { type Express } from 'express';
import type { Logger } from 'pino';
import type { Engine } from './engine/types.js';
import { ServerError } from './errors.js';
import { checkAccess } from './http/access.js';
import { chatRouter } from './http/chat.js';
import { completionsRouter } from './http/completions.js';
import { handleErrors, notFound } from './http/error-handler.js';
import { evaluateRouter } from './http/evaluate.js';
import { healthRouter, metricsRouter } from './http/health.js';
import { authenticate, type KeyRing } from './http/keys.js';
import { DEFAULT_LIMITS, type Limits } from './http/limits.js';
import { masksRouter } from './http/masks.js';
import { Metrics, type NativeUsage } from './http/metrics.js';
import { modelsRouter } from './http/models.js';
import { openapiRouter } from './http/openapi.js';
import type { HttpConfig, Parts } from './http/parts.js';
import { logRequests } from './http/request-log.js';
import { tokenizeRouter } from './http/tokenize.js';
import { trainRouter } from './http/train.js';
import type { TrainingJobs } from './jobs/types.js';
import type { Registry, Residency } from './store/types.js';

export interface AppOptions {
  readonly engine: Engine;
  readonly registry: Registry;
  readonly residency: Residency;
  readonly config: HttpConfig;
  readonly log: Logger;
  /** Without: whoever reaches the server is admin. */
  readonly keys?: KeyRing;
  /** Without: no /v1/train. */
  readonly training?: TrainingJobs;
  readonly nativeUsage?: () => NativeUsage;
  readonly limits?: Partial<Limits>;
  /** The owner sets `draining` when the server is to stop: from then on new requests are refused. */
  readonly lifecycle?: { draining: boolean };
}

export function createApp(options: AppOptions): Express {
  const { config, keys, log } = options;
  const parts: Parts = {
    ...options,
    keys,
    limits: { ...DEFAULT_LIMITS, ...options.limits },
    metrics: new Metrics(options),
    lifecycle: options.lifecycle ?? { draining: false },
  };
  const app = express();
  app.disable('x-powered-by').disable('etag');
  app.use(logRequests(log, parts.metrics));
  app.use(checkAccess({ keyed: keys !== undefined, allowOrigins: config.allowOrigins }));
  app.use(healthRouter(parts));
  app.use(metricsRouter(parts));
  app.use(openapiRouter());
  app.use((_req, _res, next) => {
    if (!parts.lifecycle.draining) return next();
    throw new ServerError('shutting_down', 'the server is shutting down; try another one, or again in a moment');
  });
  app.use(authenticate(keys));
  app.use(completionsRouter(parts));
  app.use(chatRouter(parts));
  app.use(modelsRouter(parts));
  app.use(masksRouter(parts));
  app.use(tokenizeRouter(parts));
  app.use(evaluateRouter(parts));
  if (options.training) app.use(trainRouter(parts, options.training));
  app.use(notFound);
  app.use(handleErrors(log));
  return app;
}
