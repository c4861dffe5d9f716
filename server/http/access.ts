/**
 * Who may reach the server from a browser. Without keys, reaching it is being its admin, so a web page must not be able to: requests with a foreign
 * Host (DNS rebinding) or from a page of another origin (cross-site requests) are refused. With keys, the key decides. `--allow-origin` opens either
 * to pages of named origins (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol).
 */
import type { NextFunction, Request, RequestHandler, Response } from 'express';
import { ServerError } from '../errors.js';

const EXPOSED_HEADERS = 'ETag, Content-Range, Repr-Digest, Retry-After, X-Mask-Digest, X-Request-Id, X-Task';
const PREFLIGHT_SECONDS = '600';

export interface AccessOptions {
  /** True when keys are configured. */
  readonly keyed: boolean;
  readonly allowOrigins: readonly string[];
}

/** Refuses foreign callers (403 foreign_origin), answers preflights of allowed ones. */
export function checkAccess({ keyed, allowOrigins }: AccessOptions): RequestHandler {
  return (req: Request, res: Response, next: NextFunction) => {
    const { host, origin } = req.headers;
    const allowed = origin !== undefined && allowOrigins.includes(origin);
    if (!keyed) {
      refuseForeignHost(host);
      if (origin !== undefined && !allowed) refuseForeignOrigin(origin, host);
    }
    res.vary('Origin');
    if (allowed) allowOrigin(res, origin);
    if (allowed && req.method === 'OPTIONS') return answerPreflight(req, res);
    next();
  };
}

/** Names and addresses that only this machine reaches: localhost, 127.0.0.0/8, ::1. */
export function isLoopbackName(name: string): boolean {
  const bare = name.replace(/^\[(.*)\]$/, '$1').toLowerCase();
  return bare === 'localhost' || bare === '::1' || /^127(\.\d{1,3}){3}$/.test(bare);
}

function refuseForeignHost(host: string | undefined): void {
  // HTTP/1.0 clients may send none; browsers, which rebinding needs, always do.
  if (host === undefined || isLoopbackName(host.replace(/:\d+$/, ''))) return;
  throw new ServerError(
    'foreign_origin',
    `expected Host to be localhost or 127.0.0.1 but received ${JSON.stringify(host)}: without keys this server answers only to this machine; pass --keys FILE to open it`,
  );
}

function refuseForeignOrigin(origin: string, host: string | undefined): void {
  if (origin === `http://${host}` || origin === `https://${host}`) return;
  throw new ServerError(
    'foreign_origin',
    `pages of ${origin} may not call this server; start it with --allow-origin ${origin} if they should`,
  );
}

function allowOrigin(res: Response, origin: string): void {
  res.set('Access-Control-Allow-Origin', origin);
  res.set('Access-Control-Expose-Headers', EXPOSED_HEADERS);
}

function answerPreflight(req: Request, res: Response): void {
  res.set('Access-Control-Allow-Methods', 'GET, HEAD, POST, PUT, DELETE');
  res.set('Access-Control-Allow-Headers', req.get('Access-Control-Request-Headers') ?? '*');
  res.set('Access-Control-Max-Age', PREFLIGHT_SECONDS);
  res.status(204).end();
}
