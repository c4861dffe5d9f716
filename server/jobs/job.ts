/** One job: its record in memory and on disk, and who watches it. */
import type { StoreLog } from '../store/types.js';
import type { TrainEvent } from '../trainer/types.js';
import type { JobFiles } from './job-files.js';
import { eventsOf, withEvent } from './progress.js';
import { Subscription } from './subscription.js';
import type { JobEvent, JobRecord, JobState, JobView } from './types.js';

/** How old the progress on disk may be. */
const PERSIST_MS = 10_000;

export class Job {
  private readonly subscriptions = new Set<Subscription>();
  private writes: Promise<void> = Promise.resolve();
  private written = performance.now();

  constructor(
    public record: JobRecord,
    private readonly files: JobFiles,
    private readonly log: StoreLog,
    private readonly positionOf: (job: Job) => number | undefined,
  ) {}

  get id(): string {
    return this.record.id;
  }

  get isOver(): boolean {
    return isOver(this.record.state);
  }

  get view(): JobView {
    return { ...this.record, position: this.positionOf(this) };
  }

  /** Changes the record, and tells whoever watches once it is on stable storage. Rejects when it can't be put there; it is changed and told all the same. */
  async change(fields: Partial<JobRecord>): Promise<void> {
    this.record = { ...this.record, ...fields };
    try {
      await this.persist();
    } finally {
      this.tell({ type: 'job', job: this.view });
      if (this.isOver) this.close();
    }
  }

  /** The same, where nobody could do anything about a disk that fails: memory is right until the next start. */
  async note(fields: Partial<JobRecord>): Promise<void> {
    await this.change(fields).catch((error: unknown) =>
      this.log.warn(`could not write the state of training job ${this.id}: ${(error as Error).message}`),
    );
  }

  /** Takes an event of its run. */
  receive(event: TrainEvent): void {
    this.record = { ...this.record, progress: withEvent(this.record.progress, event) };
    this.tell(event);
    if (performance.now() - this.written >= PERSIST_MS) {
      this.persist().catch((error: unknown) => this.log.warn(`training job ${this.id}: ${(error as Error).message}`));
    }
  }

  tell(event: JobEvent): void {
    for (const subscription of this.subscriptions) subscription.push(event);
  }

  /** Past events summarised, then live ones. The last event of a job that is over is the job. */
  async *watch(signal: AbortSignal): AsyncGenerator<JobEvent, void, undefined> {
    const subscription = new Subscription();
    const onAbort = (): void => subscription.abort(signal.reason as Error);
    subscription.push({ type: 'job', job: this.view });
    for (const event of eventsOf(this.record.progress)) subscription.push(event);
    if (this.isOver) {
      subscription.push({ type: 'job', job: this.view });
      subscription.close();
    } else {
      this.subscriptions.add(subscription);
    }
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    try {
      yield* subscription.read();
    } finally {
      signal.removeEventListener('abort', onAbort);
      this.subscriptions.delete(subscription);
    }
  }

  /** Ends every watch. */
  close(error?: Error): void {
    for (const subscription of this.subscriptions) subscription.close(error);
    this.subscriptions.clear();
  }

  /** Resolves when nothing is being written any more. */
  idle(): Promise<void> {
    return this.writes;
  }

  private persist(): Promise<void> {
    this.written = performance.now();
    const write = this.writes.then(() => this.files.write(this.record));
    this.writes = write.catch(() => undefined);
    return write;
  }
}

export function isOver(state: JobState): boolean {
  return state !== 'queued' && state !== 'running';
}
