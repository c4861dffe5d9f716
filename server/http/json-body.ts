/** Reads JSON bodies: whatever their Content-Type says (curl -d says form data), but never more than the limit, nor slower than it. */
import express from 'express';
import type { NextFunction, Request, RequestHandler, Response } from 'express';
import { ServerError } from '../errors.js';

const READABLE_TYPE = /^(application\/([\w.+-]+\+)?json|application\/x-www-form-urlencoded|text\/plain)\b/i;

/** Parses the body into `req.body`. `deadlineMs`: when it must be complete. */
export function jsonBody(maxBytes: number, deadlineMs: number): RequestHandler {
  const parse = express.json({ limit: maxBytes, type: () => true });
  return (req, res, next) => {
    refuseForeignType(req);
    refuseLongBody(req, maxBytes);
    continueBody(req, res);
    let settled = false;
    const done: NextFunction = (error?: unknown) => {
      if (settled) return;
      settled = true;
      clearTimeout(timer);
      next(error);
    };
    const timer = setTimeout(() => {
      // RFC 9110 §15.5.9: a connection on which a request timed out is closed.
      res.set('Connection', 'close');
      done(slowBody(deadlineMs));
    }, deadlineMs);
    parse(req, res, done);
  };
}

/** Answers `Expect: 100-continue` (RFC 9110 §10.1.1), once the request is known to be wanted. The listener leaves this to the route. */
export function continueBody(req: Request, res: Response): void {
  if (req.headers.expect?.toLowerCase() === '100-continue') res.writeContinue();
}

/** Throws ServerError unsupported_media_type. */
export function refuseForeignType(req: Request): void {
  const type = req.headers['content-type'];
  if (type === undefined || READABLE_TYPE.test(type)) return;
  throw new ServerError('unsupported_media_type', `expected Content-Type application/json but received ${type}`);
}

function refuseLongBody(req: Request, maxBytes: number): void {
  const length = Number(req.headers['content-length'] ?? 0);
  if (length <= maxBytes) return;
  throw new ServerError('body_too_large', `expected a body of at most ${maxBytes} bytes but ${length} were announced`);
}

function slowBody(deadlineMs: number): ServerError {
  return new ServerError('request_timeout', `the body was not complete after ${deadlineMs / 1000} s`);
}
