/** /v1/train: jobs that learn a task's mask from text while the server serves. The server opens no path that a client names: text comes in the body. */
import { Router, type Request, type Response } from 'express';
import type { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { ServerError } from '../errors.js';
import { jobNotFound } from '../jobs/training-jobs.js';
import type { JobView, TrainingJobs, TrainOrder } from '../jobs/types.js';
import type { BlobInfo } from '../store/types.js';
import { logError, methodNotAllowed, toServerError } from './error-handler.js';
import { continueBody, refuseForeignType } from './json-body.js';
import { principalOf, type Principal } from './keys.js';
import { currentDigest, requirePublish } from './masks.js';
import { pathParameter, requestIdOf, type Parts } from './parts.js';
import { changePrecondition } from './preconditions.js';
import { ClientGone } from './request-scope.js';
import { EventStream } from './sse.js';
import { parseReference, taskNotFound } from './task.js';
import { jobEventJson, jobJson } from './train-response.js';
import { lingerAfterError, withFloor } from './upload.js';

export function trainRouter(parts: Parts, jobs: TrainingJobs): Router {
  const router = Router();
  router
    .route('/v1/train')
    .get((_req, res) => list(res, jobs))
    .post((req, res) => post(req, res, parts, jobs))
    .all(methodNotAllowed('GET, HEAD, POST'));
  router
    .route('/v1/train/:id')
    .get((req, res) => void res.json(jobJson(visibleJob(req, res, jobs))))
    .delete((req, res) => cancel(req, res, jobs))
    .all(methodNotAllowed('GET, HEAD, DELETE'));
  router
    .route('/v1/train/:id/events')
    .get((req, res) => events(req, res, parts, jobs))
    .all(methodNotAllowed('GET, HEAD'));
  return router;
}

function list(res: Response, jobs: TrainingJobs): void {
  const principal = principalOf(res);
  const visible = jobs.list().filter(({ order }) => principal.mayPublish(order.task));
  res.json({ object: 'list', data: visible.map(jobJson) });
}

/** 202: the job is on stable storage. */
async function post(req: Request, res: Response, parts: Parts, jobs: TrainingJobs): Promise<void> {
  let body: Readable | undefined;
  try {
    if (!principalOf(res).publishes) throw mayNotTrain();
    body = openBody(req, res, parts, jobs.maxBytes);
    const request = await jobs.receive(body);
    try {
      const { order } = request;
      const principal = principalOf(res);
      requirePublish(principal, order.task);
      const precondition = changePrecondition(req, await currentDigest(parts.registry, order.task));
      const parent = await parentOf(order, principal, parts);
      const job = await jobs.post(request, {
        ...(parent === undefined ? {} : { parent: parent.digest }),
        ...(precondition === undefined ? {} : { precondition }),
      });
      res.status(202).location(`/v1/train/${job.id}`).json(jobJson(job));
    } finally {
      await request.drop();
    }
  } catch (error) {
    if (req.destroyed && !req.complete) throw new ClientGone('the client went away during the upload');
    lingerAfterError(req, parts.limits);
    throw error;
  } finally {
    body?.destroy();
  }
}

/** Which task it would be is in the body, which is not read for a key that may publish none. */
function mayNotTrain(): ServerError {
  return new ServerError(
    'permission_denied',
    'this key may not train; it needs the scope publish, of the task to be learned at least',
  );
}

/** JSON, plain or gzipped, as a stream. Throws before a byte is read. */
function openBody(req: Request, res: Response, { limits }: Parts, maxBytes: number): Readable {
  refuseForeignType(req);
  const { 'content-encoding': coding = 'identity', 'content-length': length } = req.headers;
  if (coding !== 'identity' && coding !== 'gzip') {
    throw new ServerError('unsupported_media_type', `expected Content-Encoding gzip, or none, but received ${coding}`);
  }
  if (Number(length ?? 0) > maxBytes) {
    throw new ServerError(
      'body_too_large',
      `expected a body of at most ${maxBytes} bytes but ${length} were announced; send less text, or start the server with a larger --max-train-bytes`,
    );
  }
  continueBody(req, res);
  const bytes = withFloor(req, limits);
  return coding === 'gzip' ? unzipped(bytes) : bytes;
}

function unzipped(bytes: Readable): Readable {
  const gunzip = createGunzip();
  bytes.once('error', (error) => gunzip.destroy(error));
  gunzip.once('close', () => bytes.destroy());
  gunzip.on('error', () => undefined); // whoever reads it hears of it
  return bytes.pipe(gunzip);
}

/** The mask that `from` names, at this moment. */
async function parentOf(
  { from }: TrainOrder,
  principal: Principal,
  { registry }: Parts,
): Promise<BlobInfo | undefined> {
  if (from === undefined) return undefined;
  const reference = parseReference(from);
  const mayUse = (task: string): boolean => principal.mayInfer(task) || principal.mayPublish(task);
  if (!reference || !mayUse(reference.task)) throw taskNotFound(from, 'from');
  try {
    return await registry.resolve(reference.task, reference.version);
  } catch (error) {
    // no task can have such a name: the same answer
    const isUnknown =
      error instanceof ServerError && (error.code === 'task_not_found' || error.code === 'invalid_task_name');
    throw isUnknown ? taskNotFound(from, 'from') : error;
  }
}

/** Ends with the job. A client that lost its connection asks again and gets the summary. */
async function events(req: Request, res: Response, parts: Parts, jobs: TrainingJobs): Promise<void> {
  const { id } = visibleJob(req, res, jobs);
  if (req.method === 'HEAD') return void res.type('text/event-stream').end();
  const gone = new AbortController();
  res.once('close', () => gone.abort(new ClientGone()));
  const stream = new EventStream(res, parts.limits);
  try {
    for await (const event of jobs.events(id, gone.signal)) {
      stream.open();
      await stream.send(jobEventJson(event));
    }
    await stream.done();
  } catch (thrown) {
    if (!stream.opened || thrown instanceof ClientGone) throw thrown;
    const error = toServerError(thrown);
    logError(parts.log, error, thrown, requestIdOf(res));
    await stream.fail(error);
  } finally {
    stream.close();
  }
}

/** 200: it is cancelled, or ended in the meantime. 204: it was over, and is forgotten. */
async function cancel(req: Request, res: Response, jobs: TrainingJobs): Promise<void> {
  const { job, forgotten } = await jobs.cancel(visibleJob(req, res, jobs).id);
  if (forgotten) res.status(204).end();
  else res.json(jobJson(job));
}

/** A job of a task that the key may not publish is like one that doesn't exist. */
function visibleJob(req: Request, res: Response, jobs: TrainingJobs): JobView {
  const id = pathParameter(req, 'id');
  const job = jobs.get(id);
  if (principalOf(res).mayPublish(job.order.task)) return job;
  throw jobNotFound(id);
}
