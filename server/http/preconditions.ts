/**
 * Conditional requests (RFC 9110 §13) over masks. A representation's only validator is its digest, as a strong entity tag: `"<64 hex>"`. `"sha256:<64 hex>"` is
 * understood too.
 */
import type { Request } from 'express';
import type { Digest } from '../../codec/mask-set.js';
import { ServerError } from '../errors.js';
import type { Precondition } from '../store/types.js';
import { show } from './schema.js';

const ENTITY_TAG = /^(W\/)?"([\x21\x23-\x7e]*)"$/;

interface EntityTag {
  readonly weak: boolean;
  readonly digest: string;
}

/** `*`, or the tags of a list. */
type Condition = '*' | readonly EntityTag[];

export function etagOf(digest: Digest): string {
  return `"${digest}"`;
}

/**
 * What a change requires of the task's current digest (undefined: there is no such task), as the compare-and-set that makes it hold until the change is made.
 * Throws precondition_failed where it does not hold now, invalid_header where it can't be read.
 */
export function changePrecondition(req: Request, current: Digest | undefined): Precondition {
  const ifMatch = conditionOf(req, 'If-Match');
  const ifNoneMatch = conditionOf(req, 'If-None-Match');
  if (ifMatch === undefined && ifNoneMatch === undefined) return undefined;
  if (ifMatch !== undefined && !matches(ifMatch, current, 'strong')) throw failed('If-Match', current);
  if (ifNoneMatch !== undefined && matches(ifNoneMatch, current, 'weak')) throw failed('If-None-Match', current);
  return current === undefined ? { absent: true } : { match: current };
}

/** Whether a client's copy is current: answer 304. Throws precondition_failed for If-Match. */
export function isNotModified(req: Request, current: Digest): boolean {
  const ifMatch = conditionOf(req, 'If-Match');
  if (ifMatch !== undefined && !matches(ifMatch, current, 'strong')) throw failed('If-Match', current);
  const ifNoneMatch = conditionOf(req, 'If-None-Match');
  return ifNoneMatch !== undefined && matches(ifNoneMatch, current, 'weak');
}

function conditionOf(req: Request, name: 'If-Match' | 'If-None-Match'): Condition | undefined {
  const text = req.get(name);
  if (text === undefined) return undefined;
  if (text.trim() === '*') return '*';
  return text.split(',').map((part) => {
    const match = ENTITY_TAG.exec(part.trim());
    if (match) return { weak: match[1] !== undefined, digest: (match[2] as string).replace(/^sha256:/, '') };
    throw new ServerError(
      'invalid_header',
      `expected * or digests in double quotes, as ETag has them, in ${name} but received ${show(text)}`,
      { param: name },
    );
  });
}

/** RFC 9110 §8.8.3.2: a weak tag never matches strongly. */
function matches(condition: Condition, current: Digest | undefined, comparison: 'strong' | 'weak'): boolean {
  if (current === undefined) return false;
  if (condition === '*') return true;
  return condition.some((tag) => tag.digest === current && (comparison === 'weak' || !tag.weak));
}

function failed(header: string, current: Digest | undefined): ServerError {
  const now = current === undefined ? 'there is no such task' : `the task is at ${etagOf(current)}`;
  return new ServerError('precondition_failed', `${header} does not hold: ${now}; look again before you change it`, {
    param: header,
  });
}
