/** GET /v1/models and /v1/models/:id: the base and every task that the key may use, whether or not it was ever loaded. */
import { Router } from 'express';
import { ServerError } from '../errors.js';
import { DENSE_TASK } from '../store/task-name.js';
import type { ResidencyStats, TaskRecord, Tier } from '../store/types.js';
import { methodNotAllowed } from './error-handler.js';
import { principalOf, type Principal } from './keys.js';
import { pathParameter, type Parts } from './parts.js';
import { show } from './schema.js';

/** OpenAI's model object, and what only this server knows. */
export interface ModelObject {
  readonly id: string;
  readonly object: 'model';
  /** Unix seconds: when the version was published. */
  readonly created: number;
  readonly owned_by: string;
  readonly task: string;
  /** Digest of the base weights. */
  readonly base: string;
  /** null: dense, which needs no mask. */
  readonly digest: string | null;
  readonly content: string | null;
  /** Content digest of the mask set it was transferred from. */
  readonly parent: string | null;
  /** Of the container. */
  readonly bytes: number;
  readonly residency: {
    readonly tier: Tier;
    readonly bytes: number;
    readonly cost_bytes: number;
    /** How it came into memory; null where it is not there. */
    readonly load: { readonly ms: number; readonly decode_ms: number; readonly compact_ms: number } | null;
  };
  readonly context_length: number;
}

export function modelsRouter(parts: Parts): Router {
  const router = Router();
  const started = Math.floor(Date.now() / 1000);
  router
    .route('/v1/models')
    .get(
      async (_req, res) => void res.json({ object: 'list', data: await listModels(principalOf(res), started, parts) }),
    )
    .all(methodNotAllowed('GET, HEAD'));
  router
    .route('/v1/models/:id')
    .get(async (req, res) => {
      const id = pathParameter(req, 'id');
      const models = await listModels(principalOf(res), started, parts);
      const found = models.find((model) => model.id === id);
      if (found) return void res.json(found);
      throw new ServerError('model_not_found', `no model ${show(id)}; GET /v1/models lists those you may use`, {
        param: 'model',
      });
    })
    .all(methodNotAllowed('GET, HEAD'));
  return router;
}

async function listModels(principal: Principal, started: number, parts: Parts): Promise<ModelObject[]> {
  const { name } = parts.engine.model;
  const { defaultTask } = parts.config;
  const stats = parts.residency.stats();
  const tasks = [
    denseObject(started, parts),
    ...(await parts.registry.list()).map((record) => taskObject(record, stats, parts)),
  ];
  const visible = tasks.filter((model) => principal.mayInfer(model.task));
  // The bare name is the default task's; `dense` has its own only where it isn't the default.
  const bare = visible.find((model) => model.task === defaultTask);
  const named = visible.filter((model) => model.task !== DENSE_TASK || defaultTask !== DENSE_TASK);
  return bare ? [{ ...bare, id: name }, ...named] : named;
}

function denseObject(started: number, { engine }: Parts): ModelObject {
  return {
    id: `${engine.model.name}:${DENSE_TASK}`,
    object: 'model',
    created: started,
    owned_by: 'maskserve',
    task: DENSE_TASK,
    base: engine.model.base,
    digest: null,
    content: null,
    parent: null,
    bytes: 0,
    residency: { tier: 'resident', bytes: 0, cost_bytes: 0, load: null },
    context_length: engine.model.contextLength,
  };
}

function taskObject({ task, blob, versions }: TaskRecord, stats: ResidencyStats, parts: Parts): ModelObject {
  const { engine, residency } = parts;
  const now = stats.tasks.get(blob.digest);
  const published = versions.find((version) => version.digest === blob.digest)?.publishedAt ?? 0;
  return {
    id: `${engine.model.name}:${task}`,
    object: 'model',
    created: Math.floor(published / 1000),
    owned_by: 'maskserve',
    task,
    base: blob.base,
    digest: blob.digest,
    content: blob.content,
    parent: blob.parent ?? null,
    bytes: blob.bytes,
    residency: {
      tier: now?.tier ?? 'cold',
      bytes: now?.bytes ?? 0,
      cost_bytes: residency.costBytes(),
      load: now?.load ? { ms: now.load.ms, decode_ms: now.load.decodeMs, compact_ms: now.load.compactMs } : null,
    },
    context_length: engine.model.contextLength,
  };
}
