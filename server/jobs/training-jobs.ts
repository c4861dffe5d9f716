/**
 * The queue of training jobs: one runs, some wait, those that are over are remembered for a while. A job is acknowledged when it is on stable storage, and from then on
 * only its client can make it go away: a server that stops, or is killed, goes on with it at its next start.
 */
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Digest } from '../../codec/mask-set.js';
import type { ModelInfo } from '../engine/types.js';
import { ServerError } from '../errors.js';
import type { TemporaryFile } from '../store/stable-storage.js';
import type { Registry, StoreLog } from '../store/types.js';
import type { TrainEvent } from '../trainer/types.js';
import { Job } from './job.js';
import { JobFiles } from './job-files.js';
import { NO_PROGRESS } from './progress.js';
import { LostToPrior, publishLearned } from './publish.js';
import { withAllSettings } from './request.js';
import { RequestIntake } from './request-intake.js';
import { orderOf, type TrainingPlace } from './training-order.js';
import { startTraining, type TrainingThread } from './training-thread.js';
import type { Learned, TrainingOutcome } from './training-protocol.js';
import {
  JOB_STATES,
  type JobEvent,
  type JobRecord,
  type JobStats,
  type JobView,
  type ReceivedRequest,
  type TrainingJobs,
} from './types.js';

/** Jobs that are over and still answered for. */
const KEPT_JOBS = 50;
/** A job during which the process ended this often, and that got no further, is not tried again: it may be the reason. */
const CRASH_LIMIT = 3;
const RETRY_AFTER_SECONDS = 5;
const POLL_MS = 10;

export interface TrainingJobsOptions extends TrainingPlace {
  /** Made where it is missing; whoever calls holds the lock of the store that it lies in. */
  readonly directory: string;
  readonly model: Pick<ModelInfo, 'directory' | 'contextLength' | 'vocabularySize'>;
  readonly registry: Registry;
  /** Jobs that may wait. */
  readonly maxQueue: number;
  readonly maxBytes: number;
  /** Largest container to publish. */
  readonly maxMaskBytes: number;
  readonly log: StoreLog;
}

/** Reads back what is on disk and goes on with it. Throws one line if the directory can't be used. */
export async function openTrainingJobs(options: TrainingJobsOptions): Promise<TrainingJobs> {
  const files = await JobFiles.open(options.directory, options.log);
  try {
    const jobs = new JobQueue(options, files, await files.readAll());
    await jobs.recover();
    return jobs;
  } catch (error) {
    await files.close();
    throw error;
  }
}

interface Running {
  readonly job: Job;
  readonly thread: TrainingThread;
  /** Resolves when the job is over or queued again. */
  readonly ended: Promise<void>;
}

class JobQueue implements TrainingJobs {
  /** In the order in which they were posted. */
  private readonly jobs = new Map<string, Job>();
  private readonly intake: RequestIntake;
  /** Bodies on their way: each has a place in the queue. */
  private arriving = 0;
  private running: Running | undefined;
  /** From its outcome until it is published or not. */
  private publishing: Job | undefined;
  private closing: Promise<void> | undefined;
  private tokens = 0;
  private lastCreated = 0;

  constructor(
    private readonly options: TrainingJobsOptions,
    private readonly files: JobFiles,
    records: readonly JobRecord[],
  ) {
    this.intake = new RequestIntake(files, options.maxBytes, options.model);
    for (const record of records) this.add({ ...record, order: withAllSettings(record.order) });
  }

  get maxBytes(): number {
    return this.options.maxBytes;
  }

  /** A job that was running when the process ended goes on, unless it seems to be what ends it. */
  async recover(): Promise<void> {
    for (const job of this.jobs.values()) {
      if (job.isOver) await this.files.discardText(job.id);
      else if (job.record.state === 'running') await this.requeue(job);
    }
    await this.trim();
    this.next();
  }

  async receive(body: Readable): Promise<ReceivedRequest> {
    this.admit();
    this.arriving++;
    try {
      return await this.intake.receive(body);
    } finally {
      this.arriving--;
    }
  }

  async post(
    request: ReceivedRequest,
    { parent, precondition }: { readonly parent?: Digest; readonly precondition?: JobRecord['precondition'] },
  ): Promise<JobView> {
    const body = this.intake.fileOf(request);
    this.admit();
    this.arriving++;
    let mask: TemporaryFile | undefined;
    try {
      mask = parent === undefined ? undefined : await this.copyMask(parent);
      this.lastCreated = Math.max(Date.now(), this.lastCreated + 1);
      const record: JobRecord = {
        id: randomBytes(8).toString('hex'),
        order: request.order,
        ...(parent === undefined ? {} : { parent }),
        ...(precondition === undefined ? {} : { precondition }),
        state: 'queued',
        createdAt: this.lastCreated,
        crashes: 0,
        progress: NO_PROGRESS,
      };
      await this.files.create(record, body, mask);
      const job = this.add(record);
      this.next();
      return job.view;
    } finally {
      this.arriving--;
      await mask?.drop();
    }
  }

  list(): readonly JobView[] {
    return [...this.jobs.values()].map((job) => job.view).reverse();
  }

  get(id: string): JobView {
    return this.find(id).view;
  }

  events(id: string, signal: AbortSignal): AsyncIterableIterator<JobEvent> {
    return this.find(id).watch(signal);
  }

  async cancel(id: string): Promise<{ job: JobView; forgotten: boolean }> {
    const job = this.find(id);
    if (job.isOver) {
      await this.forget(job);
      return { job: job.view, forgotten: true };
    }
    // what is being published can't be taken back: the job ends as it does
    if (this.publishing === job) await this.running?.ended;
    else {
      const run = this.running?.job === job ? this.running : undefined;
      try {
        await job.change({ state: 'cancelled', endedAt: Date.now() });
      } finally {
        // also where the disk fails: it is over in memory, and comes back with the next start
        run?.thread.stop('drop');
        this.tellPositions();
      }
      if (!run) await this.tidy(job);
    }
    return { job: job.view, forgotten: false };
  }

  stats(): JobStats {
    const jobs = Object.fromEntries(JOB_STATES.map((state) => [state, 0])) as Record<
      (typeof JOB_STATES)[number],
      number
    >;
    for (const { record } of this.jobs.values()) jobs[record.state]++;
    return { jobs, tokens: this.tokens };
  }

  close(deadlineMs: number): Promise<void> {
    return (this.closing ??= this.stop(deadlineMs));
  }

  private async stop(deadlineMs: number): Promise<void> {
    const { running } = this;
    for (const job of this.jobs.values()) if (job !== running?.job) job.close(shuttingDown());
    if (running) {
      if (!running.job.isOver) running.thread.stop('save');
      const timer = setTimeout(() => void running.thread.terminate(), deadlineMs);
      await running.ended;
      clearTimeout(timer);
      running.job.close(shuttingDown());
    }
    for (const job of this.jobs.values()) await job.idle();
    // what is on its way is acknowledged or refused before the folder is closed
    for (const deadline = Date.now() + deadlineMs; this.arriving > 0 && Date.now() < deadline;) await sleep(POLL_MS);
    await this.files.close();
  }

  private add(record: JobRecord): Job {
    const job = new Job(record, this.files, this.options.log, (one) => this.positionOf(one));
    this.jobs.set(record.id, job);
    this.lastCreated = Math.max(this.lastCreated, record.createdAt);
    return job;
  }

  /** Starts the oldest job that waits, unless one runs. */
  private next(): void {
    if (this.running || this.closing) return;
    const job = this.waiting()[0];
    if (!job) return;
    const order = orderOf(job.record, this.files.paths(job.id), this.options);
    const thread = startTraining(order, (message) => {
      if (message.type === 'progress') job.tell(message);
      else this.receiveEvent(job, message.event);
    });
    this.running = { job, thread, ended: this.follow(job, thread) };
    this.tellPositions();
  }

  private async follow(job: Job, thread: TrainingThread): Promise<void> {
    this.options.log.info(
      `training job ${job.id} of task "${job.record.order.task}" starts on ${this.options.backend}`,
    );
    await job.note({ state: 'running', startedAt: job.record.startedAt ?? Date.now() });
    const outcome = await thread.outcome;
    await this.settle(job, outcome);
    this.running = undefined;
    if (job.isOver) await this.tidy(job);
    await this.trim();
    this.next();
  }

  private receiveEvent(job: Job, event: TrainEvent): void {
    if (job.isOver) return; // cancelled: it winds down
    const { batch, seq } = job.record.order.settings;
    if (event.type === 'step') this.tokens += batch * seq;
    const resumed = job.record.progress.started?.resumedFrom ?? 0;
    // a start that is further than the one before: the process lived long enough to save something
    if (event.type === 'started' && event.resumedFrom > resumed) job.record = { ...job.record, crashes: 0 };
    job.receive(event);
  }

  /** Brings a job from its outcome to its last state, or back into the queue. */
  private async settle(job: Job, outcome: TrainingOutcome): Promise<void> {
    if (job.isOver) return;
    switch (outcome.type) {
      case 'stopped':
        return job.note({ state: 'queued' });
      case 'failed':
        return this.fail(job, 'training_failed', outcome.message);
      case 'learned':
        return this.publish(job, outcome.learned);
    }
  }

  private async publish(job: Job, learned: Learned): Promise<void> {
    this.publishing = job;
    try {
      const { registry, maxMaskBytes } = this.options;
      const result = await publishLearned(registry, job.record, learned, maxMaskBytes);
      await job.note({ state: 'finished', endedAt: Date.now(), result });
      this.options.log.info(
        `training job ${job.id} published task "${job.record.order.task}" as sha256:${result.digest}`,
      );
      if (result.flattened !== undefined) {
        this.options.log.warn(`training job ${job.id} could not store a patch of its parent: ${result.flattened}`);
      }
    } catch (error) {
      const code = error instanceof ServerError || error instanceof LostToPrior ? error.code : 'publish_failed';
      // nothing is lost: the checkpoint is at the last step, and the next start publishes again
      if (code === 'shutting_down') await job.note({ state: 'queued' });
      else await this.fail(job, code, error instanceof Error ? error.message : String(error));
    } finally {
      this.publishing = undefined;
    }
  }

  private async fail(job: Job, code: string, message: string): Promise<void> {
    this.options.log.warn(`training job ${job.id} of task "${job.record.order.task}" failed: ${message}`);
    await job.note({ state: 'failed', endedAt: Date.now(), failure: { code, message } });
  }

  private async requeue(job: Job): Promise<void> {
    const crashes = job.record.crashes + 1;
    if (crashes < CRASH_LIMIT) return job.note({ state: 'queued', crashes });
    await this.fail(
      job,
      'interrupted',
      `the server ended ${crashes} times while this job was at the same place; if memory ran out, lower batch or seq, and post it again`,
    );
  }

  /** Deletes what only a job that is not over needs. */
  private async tidy(job: Job): Promise<void> {
    await job.idle();
    await this.files.discardText(job.id);
  }

  /** Forgets those that have been over for longest. */
  private async trim(): Promise<void> {
    const over = [...this.jobs.values()].filter((job) => job.isOver);
    over.sort((a, b) => (a.record.endedAt ?? 0) - (b.record.endedAt ?? 0));
    for (const job of over.slice(0, -KEPT_JOBS)) await this.forget(job).catch(() => undefined);
  }

  private async forget(job: Job): Promise<void> {
    await job.idle();
    await this.files.forget(job.id);
    this.jobs.delete(job.id);
  }

  /** Flattened: the job decodes it whatever becomes of the sets that it stands on. */
  private async copyMask(digest: Digest): Promise<TemporaryFile> {
    return this.files.receive(Readable.from([await this.options.registry.flatten(digest)]), Infinity);
  }

  /** Throws queue_full or shutting_down. */
  private admit(): void {
    if (this.closing) throw shuttingDown();
    const waiting = this.waiting().length + this.arriving;
    if (waiting < this.options.maxQueue + (this.running ? 0 : 1)) return;
    throw new ServerError(
      'queue_full',
      `the training queue is full: ${waiting} jobs wait; try again when one has ended, or start the server with a larger --train-queue`,
      { retryAfterSeconds: RETRY_AFTER_SECONDS },
    );
  }

  private waiting(): Job[] {
    return [...this.jobs.values()].filter((job) => job.record.state === 'queued' && this.running?.job !== job);
  }

  private positionOf(job: Job): number | undefined {
    if (job.isOver) return undefined;
    if (this.running?.job === job) return 0;
    return 1 + this.waiting().indexOf(job);
  }

  /** Those that wait have moved up. */
  private tellPositions(): void {
    for (const job of this.waiting()) job.tell({ type: 'job', job: job.view });
  }

  private find(id: string): Job {
    const job = this.jobs.get(id);
    if (job) return job;
    throw jobNotFound(id);
  }
}

export function jobNotFound(id: string): ServerError {
  return new ServerError('job_not_found', `no training job "${id.slice(0, 80)}"; GET /v1/train lists them`, {
    param: 'id',
  });
}

function shuttingDown(): ServerError {
  return new ServerError(
    'shutting_down',
    'the server is shutting down; its training jobs go on when it is back, look again then',
  );
}
