/** /v1/masks: publish, list, download, roll back and delete mask sets. A task is a name for an immutable container; its entity tag is the container's sha256. */
import { Router, type Request, type Response } from 'express';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Digest } from '../../codec/mask-set.js';
import { ServerError } from '../errors.js';
import type { TaskRecord } from '../store/types.js';
import { declaredDigest, reprDigest } from './digest-fields.js';
import { methodNotAllowed } from './error-handler.js';
import { isSelfContained, sendFlattened, wantsFlattened } from './flattened-download.js';
import { jsonBody } from './json-body.js';
import { principalOf, type Principal } from './keys.js';
import { recordJson, versionsJson } from './mask-response.js';
import { pathParameter, type Parts } from './parts.js';
import { changePrecondition, etagOf, isNotModified } from './preconditions.js';
import { rangeOf, type ByteRange } from './range.js';
import { bodyParser, optional, show } from './schema.js';
import { parseReference, taskNotFound } from './task.js';
import { lingerAfterError, openUpload } from './upload.js';
import { ClientGone } from './request-scope.js';

const MEDIA_TYPE = 'application/octet-stream';

export const ROLLBACK_SCHEMA = {
  type: 'object',
  properties: {
    to: optional({
      type: 'string',
      pattern: '^(sha256:)?[0-9a-f]{64}$',
      description: 'the digest of an earlier version',
    }),
  },
};

const parseRollback = bodyParser<{ to?: string | null }>(ROLLBACK_SCHEMA);

export function masksRouter(parts: Parts): Router {
  const router = Router();
  const { config, limits } = parts;
  router
    .route('/v1/masks')
    .get((_req, res) => list(res, parts))
    .all(methodNotAllowed('GET, HEAD'));
  router
    .route('/v1/masks/:task')
    .get((req, res) => download(req, res, parts))
    .put((req, res) => publish(req, res, parts))
    .delete((req, res) => remove(req, res, parts))
    .all(methodNotAllowed('GET, HEAD, PUT, DELETE'));
  router
    .route('/v1/masks/:task/versions')
    .get((req, res) => versions(req, res, parts))
    .all(methodNotAllowed('GET, HEAD'));
  router
    .route('/v1/masks/:task/rollback')
    .post(jsonBody(config.maxBodyBytes, limits.jsonBody), (req, res) => rollback(req, res, parts))
    .all(methodNotAllowed('POST'));
  return router;
}

async function list(res: Response, { registry }: Parts): Promise<void> {
  const principal = principalOf(res);
  const records = (await registry.list()).filter((record) => maySee(principal, record.task));
  res.json({ object: 'list', data: records.map(recordJson) });
}

async function publish(req: Request, res: Response, { registry, config, limits }: Parts): Promise<void> {
  let bytes: Readable | undefined;
  try {
    const task = pathParameter(req, 'task');
    requirePublish(principalOf(res), task);
    const expect = declaredDigest(req);
    const precondition = changePrecondition(req, await currentDigest(registry, task));
    bytes = openUpload(req, res, config.maxMaskBytes, limits);
    const { record, created } = await registry.publish(task, bytes, {
      maxBytes: config.maxMaskBytes,
      ...(precondition ? { precondition } : {}),
      ...(expect === undefined ? {} : { expect }),
    });
    setValidators(res, record.task, record.digest);
    res.status(created ? 201 : 200).location(`/v1/masks/${record.task}`);
    res.json({ ...recordJson(record), created });
  } catch (error) {
    if (req.destroyed && !req.complete) throw new ClientGone('the client went away during the upload');
    lingerAfterError(req, limits);
    throw error;
  } finally {
    bytes?.destroy();
  }
}

/**
 * The container's bytes, or (Accept: application/json) what is known of them. `:task` may name a version: `french@sha256:…`. With `?flatten=1`, a delta
 * comes as a container that decodes by itself.
 */
async function download(req: Request, res: Response, { registry }: Parts): Promise<void> {
  const reference = parseReference(pathParameter(req, 'task'));
  const task = reference?.task ?? pathParameter(req, 'task');
  requireVisible(principalOf(res), task);
  res.vary('Accept');
  if (req.accepts([MEDIA_TYPE, 'application/json']) === 'application/json') {
    return void res.json(recordJson(await registry.get(task)));
  }
  const flatten = wantsFlattened(req);
  const blob = await registry.resolve(task, reference?.version);
  if (flatten && !isSelfContained(blob)) return sendFlattened(req, res, { task, blob, registry });
  const { digest, bytes } = blob;
  const notModified = isNotModified(req, digest);
  const range = notModified ? undefined : rangeOf(req, res, bytes, etagOf(digest));
  const isBodyWanted = req.method === 'GET' && !notModified;
  // Before any header is set: what can't be read is an error of its own.
  const stream = isBodyWanted ? (await registry.read(digest, range)).stream : undefined;
  setValidators(res, task, digest);
  res.set('Cache-Control', reference?.version ? 'private, immutable, max-age=31536000' : 'no-cache');
  if (notModified) return void res.status(304).end();
  describeBytes(res, task, digest, bytes, range);
  if (!stream) return void res.end();
  await pipeline(stream, res).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ERR_STREAM_PREMATURE_CLOSE') throw new ClientGone();
    throw error;
  });
}

function describeBytes(res: Response, task: string, digest: Digest, bytes: number, range: ByteRange | undefined): void {
  res.set({
    'Content-Type': MEDIA_TYPE,
    'Content-Disposition': `attachment; filename="${task}.mask"`,
    'Content-Length': String(range ? range.end - range.start + 1 : bytes),
    'Accept-Ranges': 'bytes',
    'Repr-Digest': reprDigest(digest),
  });
  if (range) res.status(206).set('Content-Range', `bytes ${range.start}-${range.end}/${bytes}`);
}

async function versions(req: Request, res: Response, { registry }: Parts): Promise<void> {
  const task = pathParameter(req, 'task');
  requireVisible(principalOf(res), task);
  res.json(versionsJson(await registry.get(task)));
}

async function rollback(req: Request, res: Response, { registry }: Parts): Promise<void> {
  const task = pathParameter(req, 'task');
  requirePublish(principalOf(res), task);
  const { to } = parseRollback(req.body ?? {});
  const precondition = changePrecondition(req, await currentDigest(registry, task));
  const record = await registry.rollback(task, {
    ...(precondition ? { precondition } : {}),
    ...(to ? { to: to.replace(/^sha256:/, '') } : {}),
  });
  setValidators(res, record.task, record.digest);
  res.json(recordJson(record));
}

async function remove(req: Request, res: Response, parts: Parts): Promise<void> {
  const { registry, residency } = parts;
  const task = pathParameter(req, 'task');
  const principal = principalOf(res);
  if (!principal.admin) {
    requireVisible(principal, task);
    throw new ServerError('permission_denied', `only an admin key may delete ${show(task)}`);
  }
  const known = await findRecord(registry, task);
  const precondition = changePrecondition(req, known?.digest);
  await registry.remove(task, precondition ? { precondition } : {});
  const inUse = new Set((await registry.list()).map((record) => record.digest));
  for (const { digest } of known?.versions ?? []) if (!inUse.has(digest)) residency.evict(digest);
  res.status(204).end();
}

function setValidators(res: Response, task: string, digest: Digest): void {
  res.set({ ETag: etagOf(digest), 'X-Task': task, 'X-Mask-Digest': digest });
}

export async function currentDigest(registry: Parts['registry'], task: string): Promise<Digest | undefined> {
  return (await findRecord(registry, task))?.digest;
}

async function findRecord(registry: Parts['registry'], task: string): Promise<TaskRecord | undefined> {
  try {
    return await registry.get(task);
  } catch (error) {
    if (error instanceof ServerError && error.code === 'task_not_found') return undefined;
    throw error;
  }
}

function maySee(principal: Principal, task: string): boolean {
  return principal.mayInfer(task) || principal.mayPublish(task);
}

/** A task that the key may not see is like one that doesn't exist. */
function requireVisible(principal: Principal, task: string): void {
  if (!maySee(principal, task)) throw taskNotFound(task);
}

export function requirePublish(principal: Principal, task: string): void {
  if (principal.mayPublish(task)) return;
  throw new ServerError('permission_denied', `this key may not publish ${show(task)}; it needs the scope publish`);
}
