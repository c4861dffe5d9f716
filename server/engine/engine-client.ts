/** The engine as the HTTP thread sees it: starts the worker, turns its messages into async iterables and promises. */
import { Worker } from 'node:worker_threads';
import type { BackendName } from '../../kernels/backend-types.js';
import type { KvType } from '../../kernels/handle.js';
import { ServerError } from '../errors.js';
import { DEFAULT_KV_TYPE } from './kv-cache.js';
import type { ChatMessage } from './chat-template.js';
import { fromWire, type EngineOptions, type FromEngine, type ToEngine } from './protocol.js';
import type {
  DeviceMemory,
  Engine,
  EngineStats,
  EvaluateRequest,
  EvaluateResult,
  GenerateEvent,
  GenerateRequest,
  ModelInfo,
} from './types.js';

export interface StartOptions {
  readonly modelDirectory: string;
  readonly threads?: number;
  readonly maxContext?: number;
  /** The CPU by default. */
  readonly backend?: BackendName;
  /** On a GPU: the dense matrices stay in host memory. */
  readonly denseOnHost?: boolean;
  readonly kvBytes?: number;
  /** What key-value caches hold; `auto` by default. */
  readonly kvType?: KvType;
  readonly maxRunning?: number;
  /** Choices between kernels are measured on this machine, and kept in the user's cache folder; false by default. */
  readonly autotune?: boolean;
  /** Sequences that may wait beyond the running ones before queue_full. */
  readonly maxQueue?: number;
  /** Called when the engine thread dies; everything pending has been rejected by then. */
  readonly onFatal?: (error: Error) => void;
}

const DEFAULTS = { threads: 0, kvBytes: 1 << 30, maxRunning: 16, maxQueue: 256 };
/** What a client is told to wait when the queue is full. */
const RETRY_AFTER_SECONDS = 2;

/** Resolves when the model is loaded; rejects with the reason it can't be. */
export async function startEngine(options: StartOptions): Promise<Engine> {
  const workerData: EngineOptions = {
    modelDirectory: options.modelDirectory,
    threads: options.threads ?? DEFAULTS.threads,
    maxContext: options.maxContext,
    backend: options.backend ?? 'cpu',
    denseOnHost: options.denseOnHost ?? false,
    kvType: options.kvType ?? DEFAULT_KV_TYPE,
    kvBytes: options.kvBytes ?? (options.backend === 'cuda' ? undefined : DEFAULTS.kvBytes),
    maxRunning: options.maxRunning ?? DEFAULTS.maxRunning,
    autotune: options.autotune ?? false,
  };
  const worker = new Worker(new URL('./engine-worker.js', import.meta.url), { workerData, name: 'engine' });
  return new EngineClient(worker, await ready(worker), workerData.maxRunning, options);
}

type Ready = Extract<FromEngine, { type: 'ready' }>;

function ready(worker: Worker): Promise<Ready> {
  return new Promise((resolve, reject) => {
    const onMessage = (message: FromEngine): void => {
      if (message.type !== 'ready') return;
      // only these three: Worker keeps listeners of its own, without which no message arrives
      worker.off('message', onMessage).off('error', reject).off('exit', onExit);
      resolve(message);
    };
    const onExit = (code: number): void => reject(new Error(`the engine thread ended with code ${code} while loading`));
    worker.on('message', onMessage).on('error', reject).on('exit', onExit);
  });
}

/** Receives everything the engine says about one request. */
interface Receiver {
  readonly onMessage: (message: FromEngine) => void;
  readonly onError: (error: Error) => void;
}

class EngineClient implements Engine {
  private readonly receivers = new Map<number, Receiver>();
  private readonly capacity: number;
  private sequences = 0;
  private nextId = 1;
  private closing = false;
  private latest: EngineStats;

  readonly model: ModelInfo;
  readonly device?: DeviceMemory;

  constructor(
    private readonly worker: Worker,
    { model, device, kvBytes }: Ready,
    maxRunning: number,
    private readonly options: StartOptions,
  ) {
    this.model = model;
    if (device) this.device = device;
    this.capacity = maxRunning + (options.maxQueue ?? DEFAULTS.maxQueue);
    this.latest = { running: 0, waiting: 0, kvBytes: 0, kvBudgetBytes: kvBytes };
    worker.on('message', (message: FromEngine) => this.receive(message));
    worker.on('error', (error) => this.die(error));
    worker.on('exit', (code) => this.die(new Error(`the engine thread ended with code ${code}`)));
  }

  generate(request: GenerateRequest, signal: AbortSignal): AsyncIterableIterator<GenerateEvent> {
    return this.stream(request, signal);
  }

  evaluate(request: EvaluateRequest, signal: AbortSignal): Promise<EvaluateResult> {
    return this.call((id) => ({ type: 'evaluate', id, request }), signal);
  }

  tokenize(text: string, addSpecialTokens: boolean): Promise<number[]> {
    return this.call((id) => ({ type: 'tokenize', id, text, addSpecialTokens }));
  }

  detokenize(ids: readonly number[]): Promise<string> {
    return this.call((id) => ({ type: 'detokenize', id, ids }));
  }

  renderChat(messages: readonly ChatMessage[]): Promise<string> {
    return this.call((id) => ({ type: 'chat', id, messages }));
  }

  stats(): EngineStats {
    return this.latest;
  }

  async close(deadlineMs: number): Promise<void> {
    this.closing = true;
    this.post({ type: 'drain' });
    const deadline = Date.now() + deadlineMs;
    while (this.receivers.size > 0 && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 10));
    await this.worker.terminate();
  }

  private async *stream(request: GenerateRequest, signal: AbortSignal): AsyncGenerator<GenerateEvent, void, undefined> {
    signal.throwIfAborted();
    this.admit();
    const id = this.nextId++;
    const inbox = new Inbox();
    const onAbort = (): void => inbox.fail(signal.reason as Error);
    signal.addEventListener('abort', onAbort, { once: true });
    this.sequences++;
    let ended = false;
    try {
      this.receivers.set(id, { onMessage: (message) => inbox.push(message), onError: (error) => inbox.fail(error) });
      this.post({ type: 'generate', id, request });
      while (!ended) {
        const event = await inbox.next();
        ended = event.type === 'done';
        yield event;
      }
    } finally {
      if (!ended) this.post({ type: 'abort', id });
      signal.removeEventListener('abort', onAbort);
      this.receivers.delete(id);
      this.sequences--;
    }
  }

  private admit(): void {
    this.refuseWhenClosing();
    if (this.sequences >= this.capacity) {
      throw new ServerError(
        'queue_full',
        `the queue is full: ${this.sequences} requests are running or waiting; try again in ${RETRY_AFTER_SECONDS} s`,
        { retryAfterSeconds: RETRY_AFTER_SECONDS },
      );
    }
  }

  private refuseWhenClosing(): void {
    if (this.closing) {
      throw new ServerError('shutting_down', 'the server is shutting down; try another one, or again in a moment');
    }
  }

  private async call<T>(message: (id: number) => ToEngine, signal?: AbortSignal): Promise<T> {
    this.refuseWhenClosing();
    signal?.throwIfAborted();
    const id = this.nextId++;
    let onAbort: (() => void) | undefined;
    try {
      return await new Promise<T>((resolve, reject) => {
        this.receivers.set(id, {
          onMessage: (answer) => {
            if (answer.type === 'result') resolve(answer.value as T);
            if (answer.type === 'failed') reject(fromWire(answer.error));
          },
          onError: reject,
        });
        onAbort = (): void => {
          this.post({ type: 'abort', id });
          reject(signal?.reason as Error);
        };
        signal?.addEventListener('abort', onAbort, { once: true });
        this.post(message(id));
      });
    } finally {
      if (onAbort) signal?.removeEventListener('abort', onAbort);
      this.receivers.delete(id);
    }
  }

  private post(message: ToEngine): void {
    this.worker.postMessage(message);
  }

  private receive(message: FromEngine): void {
    if (message.type === 'stats') this.latest = message.stats;
    else if (message.type !== 'ready') this.receivers.get(message.id)?.onMessage(message);
  }

  private die(cause: Error): void {
    const expected = this.closing;
    this.closing = true;
    const error = expected
      ? new ServerError('shutting_down', 'the server is shutting down')
      : new ServerError('internal_error', `the engine stopped: ${cause.message}; restart the server`, { cause });
    for (const receiver of this.receivers.values()) receiver.onError(error);
    if (!expected) this.options.onFatal?.(error);
  }
}

/** Events that arrived before somebody asked for them, in order. */
class Inbox {
  private readonly events: GenerateEvent[] = [];
  private error: Error | undefined;
  private wake: (() => void) | undefined;

  push(message: FromEngine): void {
    if (message.type === 'event') this.events.push(message.event);
    if (message.type === 'failed') this.error = fromWire(message.error);
    this.wake?.();
  }

  /** Ends the iteration at once, even if events are left. */
  fail(error: Error): void {
    this.error = error;
    this.events.length = 0;
    this.wake?.();
  }

  async next(): Promise<GenerateEvent> {
    for (;;) {
      const event = this.events.shift();
      if (event) return event;
      if (this.error) throw this.error;
      await new Promise<void>((resolve) => (this.wake = resolve));
      this.wake = undefined;
    }
  }
}
