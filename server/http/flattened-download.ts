/** GET /v1/masks/:task?flatten=1: the masks of a delta in a container that decodes by itself, made when asked for. */
import { createHash } from 'node:crypto';
import type { Request, Response } from 'express';
import { ServerError } from '../errors.js';
import type { BlobInfo, Registry } from '../store/types.js';
import { reprDigest } from './digest-fields.js';
import { etagOf, isNotModified } from './preconditions.js';
import { show } from './schema.js';

const CHOICES: Readonly<Record<string, boolean>> = { '': true, '1': true, true: true, '0': false, false: false };

/** Whether the query asks for a container that needs nothing else. Throws invalid_request. */
export function wantsFlattened(req: Request): boolean {
  const { flatten } = req.query;
  if (flatten === undefined) return false;
  const choice = typeof flatten === 'string' ? CHOICES[flatten] : undefined;
  if (choice !== undefined) return choice;
  throw new ServerError('invalid_request', `expected flatten=1 or flatten=0 but received ${show(flatten)}`, {
    param: 'flatten',
  });
}

export function isSelfContained({ needs }: BlobInfo): boolean {
  return needs.parent === undefined && !needs.weights;
}

/**
 * `X-Mask-Digest` names the version that was flattened, `ETag` and `Repr-Digest` the bytes that are sent: the same bytes every time, from this release of the
 * server. No ranges.
 */
export async function sendFlattened(
  req: Request,
  res: Response,
  { task, blob, registry }: { readonly task: string; readonly blob: BlobInfo; readonly registry: Registry },
): Promise<void> {
  const bytes = await registry.flatten(blob.digest);
  const digest = createHash('sha256').update(bytes).digest('hex');
  const notModified = isNotModified(req, digest);
  res.set({ ETag: etagOf(digest), 'X-Task': task, 'X-Mask-Digest': blob.digest, 'Cache-Control': 'no-cache' });
  if (notModified) return void res.status(304).end();
  res.set({
    'Content-Type': 'application/octet-stream',
    'Content-Disposition': `attachment; filename="${task}.mask"`,
    'Content-Length': String(bytes.length),
    'Repr-Digest': reprDigest(digest),
  });
  res.end(req.method === 'HEAD' ? undefined : bytes);
}
