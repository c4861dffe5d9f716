/** A whole server from its configuration: engine → registry → residency → training jobs → app → listener, and the way back. */
import { join } from 'node:path';
import type { Logger } from 'pino';
import { native, type BackendName } from '../kernels/index.js';
import { createApp } from './app.js';
import type { Config } from './config.js';
import { chooseBackend } from './engine/backend.js';
import { deviceShares, mebibytes } from './engine/device-budget.js';
import { startEngine } from './engine/engine-client.js';
import type { Engine, ModelInfo } from './engine/types.js';
import { ServerError } from './errors.js';
import { loadKeys } from './http/keys.js';
import { DEFAULT_LIMITS, type Limits } from './http/limits.js';
import { listen } from './http/listener.js';
import { openTrainingJobs } from './jobs/training-jobs.js';
import { openDiskRegistry } from './store/disk-registry.js';
import { createResidency } from './store/residency.js';
import { DENSE_TASK } from './store/task-name.js';
import type { Registry, Residency } from './store/types.js';

/** After the deadline, how long answers that were cut short may take to leave. */
const FLUSH_MS = 1_000;

export interface RunningServer {
  readonly url: string;
  readonly model: ModelInfo;
  readonly registry: Registry;
  readonly residency: Residency;
  readonly engine: Engine;
  /** Refuses new requests, lets running ones end until the deadline, then closes everything. Idempotent. */
  stop(deadlineMs: number): Promise<void>;
}

/**
 * Resolves when requests are taken. Rejects with one line that says what is wrong; nothing is left running then.
 * `onFatal`: the engine died, no request can succeed any more.
 */
export async function serve(
  config: Config,
  log: Logger,
  { onFatal, limits = {} }: { onFatal?: (error: Error) => void; limits?: Partial<Limits> } = {},
): Promise<RunningServer> {
  const opened = new Opened();
  try {
    return await open(config, log, opened, onFatal, { ...DEFAULT_LIMITS, ...limits });
  } catch (error) {
    await opened.close();
    throw error;
  }
}

async function open(
  config: Config,
  log: Logger,
  opened: Opened,
  onFatal: ((error: Error) => void) | undefined,
  limits: Limits,
): Promise<RunningServer> {
  const keys = config.keysFile === undefined ? undefined : loadKeys(config.keysFile);
  const backend = chooseBackend(config.backend);
  if (backend.remark !== undefined) log.info(`running on the CPU: ${backend.remark}`);
  const engine = await startEngine({
    backend: backend.name,
    denseOnHost: config.denseWeights === 'host',
    modelDirectory: config.model,
    threads: config.threads,
    ...kvBudget(config, backend.name),
    kvType: config.kvType,
    maxRunning: config.maxRunning,
    maxQueue: config.maxQueue,
    autotune: config.autotune,
    ...(config.maxContext === undefined ? {} : { maxContext: config.maxContext }),
    ...(onFatal ? { onFatal } : {}),
  });
  opened.push(() => engine.close(0));
  const registry = await openDiskRegistry({
    directory: config.store,
    model: engine.model,
    shippedDirectory: join(config.model, 'masks'),
    log: { info: (line) => log.info(line), warn: (line) => log.warn(line) },
  });
  opened.push(() => registry.close());
  const trains = config.trainBackend === 'cpu' ? 'cpu' : backend.name;
  const shares =
    engine.device &&
    deviceShares(engine.device, engine.stats().kvBudgetBytes, {
      wanted: config.given.cacheBytes,
      trains: trains === 'cuda',
    });
  const residency = createResidency({
    budgetBytes: shares?.taskBytes ?? config.cacheBytes,
    warmBytes: config.warmBytes,
    model: engine.model,
    registry,
    loaderThreads: config.threads,
  });
  opened.push(() => residency.close());
  await checkDefaultTask(config.defaultTask, registry, engine.model);
  if (trains === 'cuda')
    log.info(`training jobs run on cuda, and may take ${mebibytes(shares?.trainBytes ?? 0)} there`);
  const training = await openTrainingJobs({
    directory: join(config.store, engine.model.base, 'jobs'),
    model: engine.model,
    registry,
    maxContext: config.maxContext,
    backend: trains,
    deviceBytes: trains === 'cuda' ? shares?.trainBytes : undefined,
    threads: config.trainThreads,
    maxQueue: config.trainQueue,
    checkpointSeconds: config.trainCheckpointSeconds,
    maxBytes: config.maxTrainBytes,
    maxMaskBytes: config.maxMaskBytes,
    log: { info: (line) => log.info(line), warn: (line) => log.warn(line) },
  });
  opened.push(() => training.close(0));
  const lifecycle = { draining: false };
  const app = createApp({
    engine,
    registry,
    residency,
    config,
    log,
    lifecycle,
    limits,
    training,
    nativeUsage: () => native.usage(),
    ...(keys ? { keys } : {}),
  });
  const listener = await listen(app, { host: config.host, port: config.port, limits });
  let stopping: Promise<void> | undefined;
  const stop = async (deadlineMs: number): Promise<void> => {
    lifecycle.draining = true;
    const drained = listener.drain();
    const deadline = after(deadlineMs);
    const saved = training.close(deadlineMs);
    await engine.close(deadlineMs);
    await saved;
    await Promise.race([drained, deadline.passed]);
    deadline.cancel();
    const grace = after(FLUSH_MS);
    await Promise.race([drained, grace.passed]);
    grace.cancel();
    listener.destroy();
    await drained;
    await opened.close();
  };
  return {
    url: urlOf(listener.address),
    model: engine.model,
    registry,
    residency,
    engine,
    stop: (deadlineMs) => (stopping ??= stop(deadlineMs)),
  };
}

function kvBudget({ kvBytes, given }: Config, backend: BackendName): { readonly kvBytes?: number } {
  if (backend === 'cpu') return { kvBytes };
  return given.kvBytes === undefined ? {} : { kvBytes: given.kvBytes };
}

/** What has been opened, to be closed in the other direction. */
class Opened {
  private readonly closers: (() => Promise<void>)[] = [];

  push(close: () => Promise<void>): void {
    this.closers.push(close);
  }

  async close(): Promise<void> {
    for (const close of this.closers.splice(0).reverse()) await close();
  }
}

async function checkDefaultTask(task: string, registry: Registry, { denseOnHost }: ModelInfo): Promise<void> {
  if (task === DENSE_TASK && denseOnHost !== true) return;
  if (task === DENSE_TASK) {
    throw new Error('expected --default-task to name a task beside --dense-weights host: the GPU does not hold dense');
  }
  try {
    await registry.resolve(task);
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    const known = [DENSE_TASK, ...(await registry.list()).map((record) => record.task)].join(', ');
    throw new Error(`expected --default-task to be one of ${known} but received "${task}"`, { cause: error });
  }
}

/** Addresses that mean "every interface" can't be opened: this machine's own can. */
function urlOf({ host, port }: { readonly host: string; readonly port: number }): string {
  if (host === '0.0.0.0') return `http://127.0.0.1:${port}`;
  if (host === '::') return `http://[::1]:${port}`;
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

function after(ms: number): { readonly passed: Promise<void>; cancel(): void } {
  let timer: NodeJS.Timeout | undefined;
  const passed = new Promise<void>((resolve) => (timer = setTimeout(resolve, ms)));
  return { passed, cancel: () => clearTimeout(timer) };
}
