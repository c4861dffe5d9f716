/** One request to the server: address, headers, errors, and another try where the server says that it helps. */
import { errorFromBody, MaskServeError } from './errors.js';
import type { Answered } from './types.js';

const DEFAULT_RETRIES = 2;
const LONGEST_WAIT_SECONDS = 30;

export interface ConnectionOptions {
  /** `http://127.0.0.1:8080`; a trailing `/v1`, as OpenAI's clients want it, may stay. */
  readonly baseUrl: string;
  readonly apiKey?: string;
  /** Of every call that names none. */
  readonly task?: string;
  readonly fetch?: typeof fetch;
  /** How often a full queue or a server that restarts is tried again. Default 2. */
  readonly retries?: number;
}

export interface Call {
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'DELETE';
  /** From the root: `/v1/models`. */
  readonly path: string;
  readonly task?: string | undefined;
  /** Sent as JSON. */
  readonly json?: unknown;
  /** Sent as it is. A stream can be sent once only. */
  readonly body?: Uint8Array | ArrayBuffer | Blob | ReadableStream<Uint8Array>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
}

export class Connection {
  readonly baseUrl: string;
  private readonly retries: number;

  constructor(private readonly options: ConnectionOptions) {
    this.baseUrl = options.baseUrl.replace(/\/+$/, '').replace(/\/v1$/, '');
    this.retries = options.retries ?? DEFAULT_RETRIES;
  }

  /** The answer with a status below 400. Throws MaskServeError, or the signal's reason. */
  async send(call: Call): Promise<Response> {
    for (let attempt = 0; ; attempt++) {
      const response = await this.attempt(call);
      if (response.ok || response.status === 304) return response;
      const wait = attempt < this.retries && !isStream(call.body) ? retryDelay(response) : undefined;
      if (wait === undefined) throw await errorOf(response);
      await response.body?.cancel();
      await sleep(wait, call.signal);
    }
  }

  async json<T>(call: Call): Promise<T> {
    return readJson<T>(await this.send(call), call.signal);
  }

  private async attempt(call: Call): Promise<Response> {
    const send = this.options.fetch ?? fetch;
    try {
      return await send(this.baseUrl + call.path, this.initOf(call));
    } catch (cause) {
      call.signal?.throwIfAborted();
      throw new MaskServeError(`can't reach ${this.baseUrl}: ${reasonOf(cause)}; is maskserve running there?`, {
        code: 'connection_failed',
        cause,
      });
    }
  }

  private initOf({ method, task = this.options.task, json, body, headers, signal }: Call): RequestInit {
    const all: Record<string, string> = { Accept: 'application/json', ...headers };
    if (json !== undefined) all['Content-Type'] = 'application/json';
    if (this.options.apiKey !== undefined) all['Authorization'] = `Bearer ${this.options.apiKey}`;
    if (task !== undefined) all['X-Task'] = task;
    const payload = json === undefined ? body : JSON.stringify(json);
    return {
      method,
      headers: all,
      ...(payload === undefined ? {} : { body: payload }),
      ...(isStream(payload) ? { duplex: 'half' } : {}),
      ...(signal ? { signal } : {}),
    };
  }
}

export async function readJson<T>(response: Response, signal?: AbortSignal): Promise<T> {
  const text = await response.text().catch((cause: unknown) => {
    throw connectionLost(response, cause, signal);
  });
  try {
    return JSON.parse(text) as T;
  } catch (cause) {
    throw badResponse(response, `expected JSON but received ${JSON.stringify(text.slice(0, 80))}`, cause);
  }
}

export function answered(response: Response): Answered {
  return {
    task: response.headers.get('x-task') ?? '',
    maskDigest: response.headers.get('x-mask-digest'),
    requestId: response.headers.get('x-request-id') ?? '',
  };
}

/** The connection broke in the middle of an answer; the signal's reason if it was the caller who broke it. */
export function connectionLost(response: Response, cause: unknown, signal: AbortSignal | undefined): unknown {
  if (signal?.aborted) return signal.reason;
  return new MaskServeError(`the connection was lost before the answer was complete: ${reasonOf(cause)}`, {
    status: response.status,
    code: 'connection_failed',
    requestId: response.headers.get('x-request-id') ?? undefined,
    cause,
  });
}

export function badResponse(response: Response, reason: string, cause?: unknown): MaskServeError {
  return new MaskServeError(`${response.url || 'the server'} does not answer like maskserve: ${reason}`, {
    status: response.status,
    code: 'bad_response',
    requestId: response.headers.get('x-request-id') ?? undefined,
    cause,
  });
}

async function errorOf(response: Response): Promise<MaskServeError> {
  const where = { status: response.status, requestId: response.headers.get('x-request-id') ?? undefined };
  const text = await response.text();
  try {
    const error = errorFromBody(JSON.parse(text), where);
    if (error) return error;
  } catch {
    // No JSON: told below.
  }
  return badResponse(response, `status ${response.status} with ${JSON.stringify(text.slice(0, 80))}`);
}

/** Milliseconds; undefined: trying again does not help. */
function retryDelay(response: Response): number | undefined {
  if (response.headers.get('x-should-retry') !== 'true') return undefined;
  const seconds = Number(response.headers.get('retry-after') ?? 1);
  return 1000 * Math.min(Number.isFinite(seconds) ? seconds : 1, LONGEST_WAIT_SECONDS);
}

function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(signal?.reason as Error);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, ms);
    if (signal?.aborted) onAbort();
    else signal?.addEventListener('abort', onAbort, { once: true });
  });
}

/** Node's fetch hides the reason in `cause`. */
function reasonOf(error: unknown): string {
  const { message, cause } = error as { message?: string; cause?: { message?: string; code?: string } };
  return cause?.code ?? cause?.message ?? message ?? String(error);
}

function isStream(body: unknown): boolean {
  return typeof ReadableStream !== 'undefined' && body instanceof ReadableStream;
}
