/** Training on the server: text goes there, a job learns a mask and publishes it. Jobs go on when their client leaves, and when the server restarts. */
import type { Connection } from './connection.js';
import { readEvents } from './stream.js';
import type { TrainEvent, TrainJob, TrainOptions, TrainRequest } from './training-types.js';
import type { CallOptions } from './types.js';

export class Training {
  constructor(private readonly connection: Connection) {}

  /** When this resolves the job is on stable storage. */
  start(request: TrainRequest, { ifMatch, ifAbsent, signal }: TrainOptions = {}): Promise<TrainJob> {
    const headers: Record<string, string> = {
      ...(ifMatch === undefined ? {} : { 'If-Match': `"${ifMatch}"` }),
      ...(ifAbsent ? { 'If-None-Match': '*' } : {}),
    };
    return this.connection.json<TrainJob>({ method: 'POST', path: '/v1/train', json: request, headers, signal });
  }

  /** Newest first. */
  async list(options: CallOptions = {}): Promise<readonly TrainJob[]> {
    const { data } = await this.connection.json<{ data: TrainJob[] }>({
      method: 'GET',
      path: '/v1/train',
      ...options,
    });
    return data;
  }

  get(id: string, options: CallOptions = {}): Promise<TrainJob> {
    return this.connection.json<TrainJob>({ method: 'GET', path: pathOf(id), ...options });
  }

  /** What has happened, in short, then what happens. The first and the last event are the job; it ends with it. */
  async *events(id: string, { signal }: CallOptions = {}): AsyncGenerator<TrainEvent, void, undefined> {
    const response = await this.connection.send({ method: 'GET', path: `${pathOf(id)}/events`, signal });
    yield* readEvents<TrainEvent>(response, signal);
  }

  /** The job as it is afterwards; undefined: it was over before, and is forgotten now. */
  async cancel(id: string, { signal }: CallOptions = {}): Promise<TrainJob | undefined> {
    const response = await this.connection.send({ method: 'DELETE', path: pathOf(id), signal });
    return response.status === 204 ? undefined : ((await response.json()) as TrainJob);
  }
}

function pathOf(id: string): string {
  return `/v1/train/${encodeURIComponent(id)}`;
}
