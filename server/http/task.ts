/**
 * Which task a request is for: `X-Task`, else what follows `:` in the body's `model`, else the server's default. `dense` is the unmasked base. A task that
 * doesn't exist, or that the key may not use, is 404 task_not_found: never the base in its place.
 */
import type { Request, Response } from 'express';
import type { Digest } from '../../codec/mask-set.js';
import type { ModelInfo } from '../engine/types.js';
import { ServerError } from '../errors.js';
import { DENSE_TASK, isTaskName } from '../store/task-name.js';
import type { BlobInfo } from '../store/types.js';
import { principalOf, type Principal } from './keys.js';
import type { Parts } from './parts.js';
import { show } from './schema.js';

const REFERENCE = /^([^@]+)(?:@(?:sha256:)?([0-9a-f]{64}))?$/;

/** `name` or `name@sha256:…`, as sent. */
export interface TaskReference {
  readonly task: string;
  /** Undefined: the version that the name stands for now. */
  readonly version: Digest | undefined;
}

/** The task of a request: what its sequences run with until they end, whatever is published meanwhile. */
export interface ChosenTask {
  readonly task: string;
  /** Undefined: dense. */
  readonly blob: BlobInfo | undefined;
}

/** Throws ServerError invalid_header, model_not_found, task_not_found, version_not_found. */
export async function chooseTask(req: Request, res: Response, model: unknown, parts: Parts): Promise<ChosenTask> {
  const header = req.get('X-Task');
  const reference = referenceOf(header, model, parts);
  const chosen = await resolveTask(reference, principalOf(res), parts).catch((error: unknown) => {
    // The registry's sentence would tell a task that doesn't exist from one that the key may not use.
    if (!(error instanceof ServerError) || error.code !== 'task_not_found') throw error;
    throw taskNotFound(reference.task, header === undefined ? 'model' : 'X-Task');
  });
  res.set('X-Task', chosen.task);
  if (chosen.blob) res.set('X-Mask-Digest', chosen.blob.digest);
  return chosen;
}

async function resolveTask(
  { task, version }: TaskReference,
  principal: Principal,
  { registry }: Parts,
): Promise<ChosenTask> {
  if (!principal.mayInfer(task)) throw taskNotFound(task);
  if (task === DENSE_TASK && version === undefined) return { task, blob: undefined };
  // A name that no task can have needs no look at the registry, and must not be answered otherwise.
  if (!isTaskName(task) || task === DENSE_TASK) throw taskNotFound(task);
  return { task, blob: await registry.resolve(task, version) };
}

/** Reads `name`, `name@sha256:<hex>` or `name@<hex>`. Undefined when it is neither. */
export function parseReference(text: string): TaskReference | undefined {
  const match = REFERENCE.exec(text.trim());
  return match ? { task: match[1] as string, version: match[2] } : undefined;
}

export function taskNotFound(task: string, param = 'task'): ServerError {
  return new ServerError('task_not_found', `no task ${show(task)}; GET /v1/models lists those you may use`, { param });
}

/** The model's digest and the mask's: together they decide the answer. OpenAI's `system_fingerprint`. */
export function fingerprint(model: ModelInfo, { blob }: ChosenTask): string {
  const base = model.base.slice(0, 12);
  return blob ? `${base}-${blob.digest.slice(0, 12)}` : base;
}

function referenceOf(header: string | undefined, model: unknown, parts: Parts): TaskReference {
  const suffix = taskOfModel(model, parts.engine.model.name, header !== undefined);
  const text = header ?? suffix ?? parts.config.defaultTask;
  const reference = parseReference(text);
  if (reference) return reference;
  const where = header === undefined ? 'model' : 'X-Task';
  const message = `expected a task name, or NAME@sha256:<64 hex digits>, in ${where} but received ${show(text)}`;
  throw new ServerError(header === undefined ? 'invalid_request' : 'invalid_header', message, { param: where });
}

/** The part of `model` after its name and `:`; undefined where there is none. The header wins, so then it is not looked at. */
function taskOfModel(model: unknown, name: string, headerWins: boolean): string | undefined {
  if (model === undefined || model === null || model === '') return undefined;
  const text = String(model);
  if (text === name) return undefined;
  if (text.startsWith(`${name}:`)) return headerWins ? undefined : text.slice(name.length + 1);
  throw new ServerError(
    'model_not_found',
    `this server serves ${show(name)} and ${show(`${name}:TASK`)} but the request asks for ${show(model)}; GET /v1/models lists them`,
    { param: 'model' },
  );
}
