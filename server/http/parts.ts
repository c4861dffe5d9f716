/** What the HTTP layer is built from. Each resource's router takes these. */
import type { Request, Response } from 'express';
import type { Logger } from 'pino';
import type { Config } from '../config.js';
import type { Engine } from '../engine/types.js';
import type { Registry, Residency } from '../store/types.js';
import type { KeyRing } from './keys.js';
import type { Limits } from './limits.js';
import type { Metrics } from './metrics.js';

/** The settings that requests depend on. */
export type HttpConfig = Pick<
  Config,
  'maxBodyBytes' | 'maxMaskBytes' | 'allowOrigins' | 'defaultTask' | 'requestTimeoutMs'
>;

export interface Parts {
  readonly engine: Engine;
  readonly registry: Registry;
  readonly residency: Residency;
  readonly config: HttpConfig;
  readonly limits: Limits;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Undefined: no keys are configured, and everybody is admin. */
  readonly keys: KeyRing | undefined;
  /** Set once, when the server starts to drain. */
  readonly lifecycle: { draining: boolean };
}

/** `X-Request-Id`, set on every response. */
export function requestIdOf(res: Response): string {
  return String(res.getHeader('X-Request-Id') ?? '');
}

/** A path parameter. Express 5 types it as possibly repeated; ours never are. */
export function pathParameter(req: Request, name: string): string {
  const value = (req.params as Record<string, string | string[] | undefined>)[name];
  return typeof value === 'string' ? value : '';
}
