/** Training jobs: what the HTTP layer posts and sees. A job is a request for a mask that outlives its connection and the process. */
import type { Readable } from 'node:stream';
import type { Digest } from '../../codec/mask-set.js';
import type { Precondition } from '../store/types.js';
import type { TuneSettings } from '../trainer/teacher-tune.js';
import type { MaskTrainingSettings, TrainEvent, TrainFinished, TrainStarted, TrainStep } from '../trainer/types.js';

/** `queued` → `running` → one of the others, which stay. A running job is queued again when its server stops. */
export type JobState = 'queued' | 'running' | 'finished' | 'failed' | 'cancelled';
export const JOB_STATES: readonly JobState[] = ['queued', 'running', 'finished', 'failed', 'cancelled'];

/** What is known of a text without keeping it. */
export interface SourceSummary {
  readonly name: string;
  readonly documents: number;
  /** UTF-16 units of all documents. */
  readonly characters: number;
}

/** A checked request, without its text. */
export interface TrainOrder {
  readonly task: string;
  /** As sent: `name` or `name@sha256:…`. */
  readonly from?: string;
  readonly sources: readonly SourceSummary[];
  readonly guards: readonly SourceSummary[];
  /** Every constant, defaults filled in. */
  readonly settings: MaskTrainingSettings;
  readonly force: boolean;
  /** A teacher is tuned on the text first, and KL is taken to it. */
  readonly tuneTeacher?: TunedTeacherSettings;
}

export type TunedTeacherSettings = Pick<TuneSettings, 'rank' | 'steps' | 'learningRate'>;

/** What is kept of a run's events: enough to draw its curve and to say how it went. */
export interface JobProgress {
  readonly started?: TrainStarted;
  /** Steps that looked at held-out text. */
  readonly looks: readonly TrainStep[];
  readonly last?: TrainStep;
  readonly finished?: TrainFinished;
}

/** Why a job failed. `code`: of server/errors.ts where publishing was refused, else `training_failed`, `lost_to_prior`, `interrupted` or `publish_failed`. */
export interface JobFailure {
  readonly code: string;
  readonly message: string;
}

/** What was published. */
export interface JobResult {
  readonly digest: Digest;
  readonly bytes: number;
  /** There was no task of this name before. */
  readonly created: boolean;
  /** Why it is stored without its parent, where it could have been a patch of it. */
  readonly flattened?: string;
}

/** A job as its directory keeps it. Times are Unix milliseconds. */
export interface JobRecord {
  readonly id: string;
  readonly order: TrainOrder;
  /** Digest of the container that `from` named when the job was posted. */
  readonly parent?: Digest;
  readonly precondition?: Precondition;
  readonly state: JobState;
  readonly createdAt: number;
  readonly startedAt?: number;
  readonly endedAt?: number;
  /** How often the process ended while it ran, without a step saved in between. */
  readonly crashes: number;
  readonly progress: JobProgress;
  readonly result?: JobResult;
  readonly failure?: JobFailure;
}

export interface JobView extends JobRecord {
  /** 0: running; 1: next; undefined: over. */
  readonly position: number | undefined;
}

export type JobEvent =
  | { readonly type: 'job'; readonly job: JobView }
  | { readonly type: 'progress'; readonly stage: string; readonly done: number; readonly of: number }
  | TrainEvent;

/** A request body on disk, checked. Post it or drop it. */
export interface ReceivedRequest {
  readonly order: TrainOrder;
  /** Harmless once posted. */
  drop(): Promise<void>;
}

export interface JobStats {
  readonly jobs: Readonly<Record<JobState, number>>;
  /** Trained on since the server started. */
  readonly tokens: number;
}

/** Throws ServerError where it says; nothing acknowledged is lost. */
export interface TrainingJobs {
  /** Longest body. */
  readonly maxBytes: number;
  /**
   * Takes a body (JSON) to disk and checks it in a worker. Throws queue_full before it reads, body_too_large, invalid_request naming the field, disk_full,
   * store_failed, or the stream's own error, which is left open when refused.
   */
  receive(body: Readable): Promise<ReceivedRequest>;
  /** Resolves when the job is on stable storage. `parent`: the container that `order.from` names. Throws task_not_found, queue_full, disk_full, store_failed. */
  post(
    request: ReceivedRequest,
    options: { readonly parent?: Digest; readonly precondition?: Precondition },
  ): Promise<JobView>;
  /** Newest first. */
  list(): readonly JobView[];
  /** Throws job_not_found. */
  get(id: string): JobView;
  /**
   * What has happened, summarised, then what happens; the first and the last event are the job. Ends when the job does. Throws job_not_found, the signal's reason, and
   * shutting_down when the server stops first.
   */
  events(id: string, signal: AbortSignal): AsyncIterableIterator<JobEvent>;
  /** Cancels a job that is not over (what is being published stays published); one that is over is forgotten. Throws job_not_found. */
  cancel(id: string): Promise<{ readonly job: JobView; readonly forgotten: boolean }>;
  stats(): JobStats;
  /** The running job saves its state and goes on with the next start. After the deadline it goes on from its last checkpoint. Idempotent. */
  close(deadlineMs: number): Promise<void>;
}
