/**
 * The app over an engine that does as a test says: for what a real engine shows only by accident (a stall, a failure in mid-stream, a full queue). Registry and
 * residency are in memory; everything HTTP is real.
 */
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { pino, type Logger } from 'pino';
import { createApp, type AppOptions } from '../../../server/app.js';
import type { Engine, GenerateEvent, GenerateRequest, ModelInfo, TaskWeights } from '../../../server/engine/types.js';
import { ServerError } from '../../../server/errors.js';
import { listen } from '../../../server/http/listener.js';
import { DEFAULT_LIMITS, type Limits } from '../../../server/http/limits.js';
import type { BlobInfo, Lease, Registry, Residency, TaskRecord } from '../../../server/store/types.js';

const MODEL: ModelInfo = {
  name: 'tiny',
  directory: '.',
  architecture: 'LlamaForCausalLM',
  base: 'b'.repeat(64),
  vocabularySize: 100,
  contextLength: 64,
  parameters: 1,
  bosId: undefined,
  eosIds: [1],
  maskable: [],
  hasChatTemplate: false,
};

/** What a sequence does: yields events, waits, throws. */
export type Script = (request: GenerateRequest, signal: AbortSignal) => AsyncGenerator<GenerateEvent>;

export const prompt = (text = 'p'): GenerateEvent => ({ type: 'prompt', ids: [5], text, tokens: [] });
export const delta = (text: string): GenerateEvent => ({ type: 'delta', text, tokens: [] });
export const done = (completionTokens = 1): GenerateEvent => ({
  type: 'done',
  finishReason: 'length',
  promptTokens: 1,
  completionTokens,
  timings: { queuedMs: 0, prefillMs: 0, decodeMs: 0 },
});

/** Never resolves; rejects with the signal's reason, as an engine's iteration does. */
export async function untilAborted(signal: AbortSignal): Promise<never> {
  if (!signal.aborted) await once(signal, 'abort');
  throw signal.reason;
}

export interface ScriptedApp {
  readonly url: string;
  /** Sequences that have begun and not ended. */
  running(): number;
  /** Leases taken and not given back. */
  leases(): number;
  close(): Promise<void>;
}

export interface ScriptedOptions {
  readonly script: Script;
  readonly limits?: Partial<Limits>;
  readonly tasks?: readonly string[];
  /** How long a task takes to load. */
  readonly loadMs?: number;
  readonly log?: Logger;
  readonly requestTimeoutMs?: number;
  readonly options?: Partial<Pick<AppOptions, 'keys' | 'lifecycle'>>;
}

export async function startScriptedApp(setup: ScriptedOptions): Promise<ScriptedApp> {
  const counts = { running: 0, leases: 0 };
  const limits = { ...DEFAULT_LIMITS, ...setup.limits };
  const app = createApp({
    engine: scriptedEngine(setup.script, counts),
    registry: memoryRegistry(setup.tasks ?? []),
    residency: memoryResidency(counts, setup.loadMs ?? 0),
    config: {
      maxBodyBytes: 1 << 20,
      maxMaskBytes: 1 << 20,
      allowOrigins: [],
      defaultTask: 'dense',
      requestTimeoutMs: setup.requestTimeoutMs ?? 60_000,
    },
    log: setup.log ?? pino({ level: 'silent' }),
    limits,
    ...setup.options,
  });
  const listener = await listen(app, { host: '127.0.0.1', port: 0, limits });
  return {
    url: `http://127.0.0.1:${listener.address.port}`,
    running: () => counts.running,
    leases: () => counts.leases,
    close: async () => {
      listener.destroy();
      await listener.drain();
    },
  };
}

function scriptedEngine(script: Script, counts: { running: number }): Engine {
  async function* counted(
    request: GenerateRequest,
    signal: AbortSignal,
  ): AsyncGenerator<GenerateEvent, void, undefined> {
    counts.running++;
    try {
      yield* script(request, signal);
    } finally {
      counts.running--;
    }
  }
  const absent = (): Promise<never> => Promise.reject(new ServerError('unsupported', 'not part of the script'));
  return {
    model: MODEL,
    generate: counted,
    evaluate: absent,
    tokenize: absent,
    detokenize: absent,
    renderChat: absent,
    stats: () => ({ running: counts.running, waiting: 0, kvBytes: 0, kvBudgetBytes: 1 }),
    close: () => Promise.resolve(),
  };
}

function memoryRegistry(tasks: readonly string[]): Registry {
  const blob: BlobInfo = {
    digest: 'd'.repeat(64),
    content: 'c'.repeat(64),
    base: MODEL.base,
    parent: undefined,
    needs: { parent: undefined, weights: false },
    bytes: 10,
    n: 2,
    m: 4,
    parameters: 100,
  };
  const record = (task: string): TaskRecord => {
    if (!tasks.includes(task)) throw new ServerError('task_not_found', `no task ${task}`);
    return { task, digest: blob.digest, blob, versions: [{ digest: blob.digest, publishedAt: 0 }], shipped: false };
  };
  const absent = (): Promise<never> => Promise.reject(new ServerError('store_failed', 'not part of the script'));
  return {
    publish: absent,
    resolve: (task) => Promise.resolve(task).then((name) => record(name).blob),
    get: (task) => Promise.resolve(task).then(record),
    list: () => Promise.resolve(tasks.map(record)),
    read: absent,
    path: absent,
    lineage: absent,
    flatten: absent,
    rollback: absent,
    remove: absent,
    onChange: () => () => undefined,
    quarantined: () => new Map(),
    close: () => Promise.resolve(),
  };
}

function memoryResidency(counts: { leases: number }, loadMs: number): Residency {
  const weights: TaskWeights = { digest: 'd'.repeat(64), matrices: {}, bytes: 1 };
  return {
    async acquire(_digest, signal): Promise<Lease> {
      await delay(loadMs, undefined, signal ? { signal } : {}).catch(() => signal?.throwIfAborted());
      counts.leases++;
      let held = true;
      const release = (): void => {
        if (held) counts.leases--;
        held = false;
      };
      return { weights, cold: true, loadMs, release };
    },
    costBytes: () => 1,
    evict: () => undefined,
    onLoad: () => () => undefined,
    stats: () => ({
      budgetBytes: 1,
      residentBytes: 0,
      leasedOutsideBytes: 0,
      warmBytes: 0,
      warmBudgetBytes: 0,
      hits: 0,
      misses: 0,
      found: { resident: 0, patched: 0, warm: 0, cold: 0 },
      evictions: 0,
      tasks: new Map(),
    }),
    close: () => Promise.resolve(),
  };
}
