/** Gives every request its id, and every answer a log line and a count. Prompts, bodies and keys are never logged. */
import { randomUUID } from 'node:crypto';
import type { Request, RequestHandler } from 'express';
import type { Logger } from 'pino';
import { principalOf } from './keys.js';
import type { Metrics } from './metrics.js';

/** A client's own id is kept when it can go into a header and a log line as it is. */
const CLIENT_REQUEST_ID = /^[\w.:-]{1,128}$/;
/** nginx's number for "client closed request": in the log and the metrics, never on the wire. */
const CLIENT_CLOSED_REQUEST = 499;
/** Asked for every few seconds by machines: they would drown the rest. */
const PROBES: ReadonlySet<string> = new Set(['/healthz', '/readyz', '/metrics']);

export function logRequests(log: Logger, metrics: Metrics): RequestHandler {
  return (req, res, next) => {
    const start = performance.now();
    const id = requestId(req);
    res.set('X-Request-Id', id);
    // A write to a connection that was just lost is an 'error' event, which nobody else listens for.
    res.on('error', () => undefined);
    res.once('close', () => {
      const status = res.writableFinished ? res.statusCode : CLIENT_CLOSED_REQUEST;
      const seconds = (performance.now() - start) / 1000;
      const route = routeOf(req);
      metrics.request(route, req.method, status, seconds);
      log[PROBES.has(route) ? 'debug' : 'info']({
        id,
        method: req.method,
        route,
        status,
        ms: Math.round(seconds * 1000),
        task: res.getHeader('X-Task'),
        key: principalOf(res).name,
      });
    });
    next();
  };
}

function requestId(req: Request): string {
  const given = req.get('X-Request-Id');
  return given !== undefined && CLIENT_REQUEST_ID.test(given) ? given : randomUUID();
}

/** The pattern that matched, not the path: a path may hold anything. */
function routeOf(req: Request): string {
  const path = (req as { route?: { path?: unknown } }).route?.path;
  return typeof path === 'string' ? req.baseUrl + path : 'other';
}
