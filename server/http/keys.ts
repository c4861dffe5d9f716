/**
 * API keys. The file holds sha256 hashes of high-entropy keys, so that reading it gives nobody access. A client key can be limited to tasks; a task that a
 * key may not use looks like one that doesn't exist.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { RequestHandler, Response } from 'express';
import { ServerError } from '../errors.js';

const SCOPE = /^(?:(infer|publish)(?::([a-z0-9][a-z0-9._-]{0,63}))?|metrics|admin)$/;
const SHA256_HEX = /^[0-9a-f]{64}$/;

/** What the sender of a request may do. */
export interface Principal {
  readonly name: string;
  readonly admin: boolean;
  /** May read /metrics. */
  readonly metrics: boolean;
  /** May publish some task. */
  readonly publishes: boolean;
  mayInfer(task: string): boolean;
  mayPublish(task: string): boolean;
}

interface Key {
  readonly hash: Buffer;
  readonly principal: Principal;
}

/** May do nothing: requests of endpoints that ask for no key. */
export const ANYBODY: Principal = principalFrom('anybody', []);
/** Without a keys file: whoever reaches the loopback port. */
const LOCAL_ADMIN: Principal = principalFrom('local', ['admin']);

export class KeyRing {
  constructor(private readonly keys: readonly Key[]) {}

  /** Compares with every key, in time that does not depend on which one matches, or whether one does. */
  find(key: string): Principal | undefined {
    const hash = createHash('sha256').update(key).digest();
    let found: Principal | undefined;
    for (const candidate of this.keys) {
      if (timingSafeEqual(candidate.hash, hash)) found = candidate.principal;
    }
    return found;
  }
}

/** Reads `--keys FILE`. Throws one line that says which entry is wrong and how. */
export function loadKeys(file: string): KeyRing {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw new Error(`expected JSON in the keys file ${file}: ${(cause as Error).message}`, { cause });
  }
  return parseKeys(json, file);
}

/** `{"keys": [{"name", "sha256", "scopes"}]}` → key ring. */
export function parseKeys(json: unknown, file: string): KeyRing {
  const entries = isRecord(json) ? json['keys'] : undefined;
  if (!Array.isArray(entries) || entries.length === 0) {
    throw new Error(`expected {"keys": [{"name", "sha256", "scopes"}, …]} with at least one key in ${file}`);
  }
  const names = new Set<string>();
  return new KeyRing(entries.map((entry, index) => parseKey(entry, `keys[${index}] of ${file}`, names)));
}

/** Finds out who sent a request. 401 invalid_api_key when keys are configured and it carries none of them. */
export function authenticate(keys: KeyRing | undefined): RequestHandler {
  return (req, res, next) => {
    const principal = keys ? principalFor(keys, req.headers.authorization) : LOCAL_ADMIN;
    (res.locals as { principal?: Principal }).principal = principal;
    next();
  };
}

/** Who sent this request, as `authenticate` found. */
export function principalOf(res: Response): Principal {
  return (res.locals as { principal?: Principal }).principal ?? ANYBODY;
}

function principalFor(keys: KeyRing, authorization: string | undefined): Principal {
  if (authorization === undefined) {
    throw new ServerError('invalid_api_key', 'expected an API key: send "Authorization: Bearer KEY"');
  }
  const key = /^Bearer +(\S+) *$/i.exec(authorization)?.[1];
  const principal = key === undefined ? undefined : keys.find(key);
  if (principal) return principal;
  throw new ServerError('invalid_api_key', 'the API key in "Authorization: Bearer KEY" is not one of this server');
}

function parseKey(entry: unknown, where: string, names: Set<string>): Key {
  if (!isRecord(entry)) throw new Error(`expected an object for ${where}`);
  const { name, sha256, scopes } = entry;
  if (typeof name !== 'string' || name === '') throw new Error(`expected a name for ${where}`);
  if (names.has(name)) throw new Error(`expected a name of its own for ${where} but "${name}" is there twice`);
  names.add(name);
  if (typeof sha256 !== 'string' || !SHA256_HEX.test(sha256.toLowerCase())) {
    throw new Error(`expected 64 hexadecimal digits for sha256 of ${where} (printf %s KEY | sha256sum)`);
  }
  if (!Array.isArray(scopes) || scopes.length === 0) throw new Error(`expected a list for scopes of ${where}`);
  for (const scope of scopes) {
    if (typeof scope === 'string' && SCOPE.test(scope)) continue;
    throw new Error(
      `expected infer, infer:TASK, publish, publish:TASK, metrics or admin in scopes of ${where} but found ${JSON.stringify(scope)}`,
    );
  }
  return { hash: Buffer.from(sha256, 'hex'), principal: principalFrom(name, scopes as string[]) };
}

function principalFrom(name: string, scopes: readonly string[]): Principal {
  const granted = new Set(scopes);
  const admin = granted.has('admin');
  const may = (what: string, task: string): boolean => admin || granted.has(what) || granted.has(`${what}:${task}`);
  return {
    name,
    admin,
    metrics: admin || granted.has('metrics'),
    publishes: admin || scopes.some((scope) => scope.startsWith('publish')),
    mayInfer: (task) => may('infer', task),
    mayPublish: (task) => may('publish', task),
  };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
