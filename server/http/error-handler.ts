/** Whatever is thrown on the way → OpenAI's error body and the headers that tell clients whether to try again. */
import type { ErrorRequestHandler, RequestHandler, Response } from 'express';
import type { Logger } from 'pino';
import { errorBody, ServerError, type ErrorCode } from '../errors.js';
import { ClientGone } from './request-scope.js';
import { requestIdOf } from './parts.js';

/** What OpenAI's clients try again, beside 5xx, unless told otherwise. */
const RETRIED_BY_CLIENTS: ReadonlySet<number> = new Set([408, 409, 429]);
/** Of those, what can end differently a moment later (beside errors that name a time). */
const WORTH_RETRYING: ReadonlySet<ErrorCode> = new Set(['queue_full', 'shutting_down']);
const RETRY_AFTER_SECONDS = 1;

export function handleErrors(log: Logger): ErrorRequestHandler {
  return (thrown: unknown, _req, res, next) => {
    if (thrown instanceof ClientGone) return void res.destroy();
    const error = toServerError(thrown);
    logError(log, error, thrown, requestIdOf(res));
    // Half an answer can't be taken back: cut it, so that nobody takes it for whole.
    if (res.headersSent) return void res.destroy();
    if (res.writableEnded) return next();
    sendError(res, error);
  };
}

export function sendError(res: Response, error: ServerError): void {
  const { retryAfterSeconds } = error.options;
  const retry = retryAfterSeconds !== undefined || WORTH_RETRYING.has(error.code);
  if (error.status >= 500 || RETRIED_BY_CLIENTS.has(error.status)) res.set('x-should-retry', String(retry));
  if (retry) res.set('Retry-After', String(retryAfterSeconds ?? RETRY_AFTER_SECONDS));
  if (error.code === 'invalid_api_key') res.set('WWW-Authenticate', 'Bearer');
  res.status(error.status).json(errorBody(error));
}

/** Logs what the operator has to see: the server's own failures whole, a client's mistakes by their code (sentences may quote prompts). */
export function logError(log: Logger, error: ServerError, thrown: unknown, id: string): void {
  if (error.status >= 500 && error.code !== 'shutting_down') log.error({ id, code: error.code, err: thrown });
  else log.debug({ id, code: error.code, param: error.options.param });
}

/** Express's and body-parser's own errors carry a status and a type; anything else is a defect, and its text stays in the log. */
export function toServerError(thrown: unknown): ServerError {
  if (thrown instanceof ServerError) return thrown;
  const { status, type, limit, message } = thrown as {
    status?: number;
    type?: string;
    limit?: number;
    message?: string;
  };
  switch (type) {
    case 'entity.too.large':
      return new ServerError('body_too_large', `expected a body of at most ${limit} bytes; see --max-body-bytes`);
    case 'entity.parse.failed':
      return new ServerError('invalid_request', `expected a JSON object as the body: ${message}`);
    case 'encoding.unsupported':
    case 'charset.unsupported':
      return new ServerError('unsupported_media_type', `${message}; send UTF-8 JSON, plain or gzipped`);
  }
  if (status !== undefined && status >= 400 && status < 500) {
    return new ServerError('invalid_request', message ?? 'the request could not be read');
  }
  return new ServerError('internal_error', 'the server failed; its log has the reason under this X-Request-Id', {
    cause: thrown,
  });
}

/** Answers what no route took. */
export const notFound: RequestHandler = (req) => {
  throw new ServerError('not_found', `no endpoint ${req.method} ${req.path}; GET /openapi.json lists them`);
};

/** For the end of a route: the path exists, the method does not. */
export function methodNotAllowed(allow: string): RequestHandler {
  return (req, res) => {
    res.set('Allow', allow);
    throw new ServerError('method_not_allowed', `${req.method} is not a method of ${req.path}; it has ${allow}`);
  };
}
