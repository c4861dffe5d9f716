/**
 * Calls answered by a worker thread, one after the other. The thread starts with the first call, does not keep the process alive while idle,
 * and is replaced at the next call if it dies: whoever waited is told.
 */
import { Worker } from 'node:worker_threads';
import { ServerError } from '../errors.js';

export interface CallMessage<Request> {
  readonly id: number;
  readonly request: Request;
}

export type ReplyMessage<Reply> =
  { readonly id: number; readonly reply: Reply } | { readonly id: number; readonly error: string };

interface Pending<Reply> {
  readonly resolve: (reply: Reply) => void;
  readonly reject: (error: Error) => void;
}

export class WorkerCalls<Request, Reply> {
  private worker: Worker | undefined;
  private readonly pending = new Map<number, Pending<Reply>>();
  private lastId = 0;
  private closed = false;

  /** @param what names the thread in errors, e.g. `mask loader` */
  constructor(
    private readonly what: string,
    private readonly script: URL,
    private readonly workerData: unknown,
  ) {}

  call(request: Request): Promise<Reply> {
    if (this.closed) return Promise.reject(shuttingDown());
    const worker = (this.worker ??= this.start());
    const id = ++this.lastId;
    worker.ref();
    const message: CallMessage<Request> = { id, request };
    return new Promise<Reply>((resolve, reject) => {
      this.pending.set(id, { resolve, reject });
      worker.postMessage(message);
    });
  }

  /** Ends the thread at once; calls that wait are rejected with shutting_down. */
  async close(): Promise<void> {
    this.closed = true;
    const { worker } = this;
    if (!worker) return;
    this.lose(worker, shuttingDown());
    await worker.terminate();
  }

  private start(): Worker {
    const worker = new Worker(this.script, { workerData: this.workerData });
    worker.on('message', (message: ReplyMessage<Reply>) => this.settle(worker, message));
    worker.on('error', (error) => this.lose(worker, this.died(error.message)));
    worker.on('exit', (code) => this.lose(worker, this.died(`it exited with code ${code}`)));
    return worker;
  }

  private settle(worker: Worker, message: ReplyMessage<Reply>): void {
    const call = this.pending.get(message.id);
    this.pending.delete(message.id);
    if (this.pending.size === 0) worker.unref();
    if ('error' in message) call?.reject(new Error(message.error));
    else call?.resolve(message.reply);
  }

  private lose(worker: Worker, error: Error): void {
    if (this.worker !== worker) return;
    this.worker = undefined;
    const calls = [...this.pending.values()];
    this.pending.clear();
    for (const call of calls) call.reject(error);
  }

  private died(reason: string): Error {
    return new Error(`the ${this.what} thread ended: ${reason}`);
  }
}

function shuttingDown(): ServerError {
  return new ServerError('shutting_down', 'the server is shutting down');
}
