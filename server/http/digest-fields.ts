/** Digests in headers: Repr-Digest and Content-Digest (RFC 9530), `sha-256=:<base64>:`. */
import type { Request } from 'express';
import type { Digest } from '../../codec/mask-set.js';
import { ServerError } from '../errors.js';
import { show } from './schema.js';

const MEMBER = /^([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/]*={0,2}):$/;
const SHA256_BYTES = 32;

/** The sha256 that a client declares for its upload. Undefined: none; other algorithms are ignored, as §2 asks. Throws ServerError. */
export function declaredDigest(req: Request): Digest | undefined {
  // No content coding is taken, so content and representation are the same bytes.
  const declared = ['Repr-Digest', 'Content-Digest'].map((name) => sha256Of(name, req.get(name)));
  const [repr, content] = declared;
  if (repr !== undefined && content !== undefined && repr !== content) {
    throw new ServerError('digest_mismatch', 'Repr-Digest and Content-Digest differ, but both are of the same bytes', {
      param: 'Repr-Digest',
    });
  }
  return repr ?? content;
}

export function reprDigest(digest: Digest): string {
  return `sha-256=:${Buffer.from(digest, 'hex').toString('base64')}:`;
}

function sha256Of(name: string, text: string | undefined): Digest | undefined {
  if (text === undefined) return undefined;
  let found: Digest | undefined;
  for (const part of text.split(',')) {
    const match = MEMBER.exec(part.trim());
    if (!match) throw unreadable(name, text);
    if (match[1] !== 'sha-256') continue;
    const bytes = Buffer.from(match[2] as string, 'base64');
    if (bytes.length !== SHA256_BYTES) throw unreadable(name, text);
    found = bytes.toString('hex');
  }
  return found;
}

function unreadable(name: string, text: string): ServerError {
  const message = `expected sha-256=:<base64 of 32 bytes>: in ${name} but received ${show(text)}`;
  return new ServerError('invalid_header', message, { param: name });
}
