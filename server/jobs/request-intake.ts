/** The body of a POST /v1/train, from the wire to a checked file: streamed to disk, then read in a thread that ends with it. The HTTP thread never holds the text. */
import type { Readable } from 'node:stream';
import { fromWire } from '../engine/protocol.js';
import type { TemporaryFile } from '../store/stable-storage.js';
import { WorkerCalls } from '../store/worker-calls.js';
import type { JobFiles } from './job-files.js';
import type { ModelLimits } from './request.js';
import type { CheckCall, CheckReply } from './request-worker.js';
import type { ReceivedRequest, TrainOrder } from './types.js';

export class RequestIntake {
  private readonly bodies = new WeakMap<ReceivedRequest, TemporaryFile>();
  private readonly limits: ModelLimits;

  constructor(
    private readonly files: JobFiles,
    private readonly maxBytes: number,
    { contextLength, vocabularySize }: ModelLimits,
  ) {
    this.limits = { contextLength, vocabularySize };
  }

  /** Throws as TrainingJobs.receive does; nothing is left on disk then. */
  async receive(body: Readable): Promise<ReceivedRequest> {
    const file = await this.files.receive(body, this.maxBytes);
    try {
      const request: ReceivedRequest = { order: await this.check(file.path), drop: () => file.drop() };
      this.bodies.set(request, file);
      return request;
    } catch (error) {
      await file.drop();
      throw error;
    }
  }

  /** The body of what `receive` gave. */
  fileOf(request: ReceivedRequest): TemporaryFile {
    const file = this.bodies.get(request);
    if (!file) throw new Error('expected a request that receive() gave');
    return file;
  }

  /** The thread gives back the memory that hundreds of megabytes of text take. */
  private async check(path: string): Promise<TrainOrder> {
    const script = new URL('./request-worker.js', import.meta.url);
    const calls = new WorkerCalls<CheckCall, CheckReply>('request checker', script, this.limits);
    try {
      const reply = await calls.call({ path });
      if ('refused' in reply) throw fromWire(reply.refused);
      return reply.order;
    } finally {
      await calls.close();
    }
  }
}
