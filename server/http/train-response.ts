/** Training jobs as JSON. What the trainer itself says (settings, events) keeps its own names. */
import { lastEvent } from '../jobs/progress.js';
import type { JobEvent, JobState, JobView, SourceSummary, TunedTeacherSettings } from '../jobs/types.js';
import type { MaskTrainingSettings, TrainEvent, TrainFinished } from '../trainer/types.js';

export interface TrainJobJson {
  readonly object: 'train.job';
  readonly id: string;
  readonly task: string;
  readonly from: string | null;
  /** Digest of the container that `from` named when the job was posted. */
  readonly parent: string | null;
  readonly state: JobState;
  /** 0: running; 1: next; null: over. */
  readonly position: number | null;
  readonly sources: readonly SourceSummary[];
  readonly guards: readonly SourceSummary[];
  readonly settings: MaskTrainingSettings;
  readonly force: boolean;
  readonly tuneTeacher: TunedTeacherSettings | null;
  /** ISO 8601. */
  readonly created_at: string;
  readonly started_at: string | null;
  readonly ended_at: string | null;
  /** The last one that its run has sent. */
  readonly event: TrainEvent | null;
  /** How it went on held-out text. */
  readonly finished: TrainFinished | null;
  /** Of what was published. */
  readonly digest: string | null;
  readonly bytes: number | null;
  readonly error: { readonly code: string; readonly message: string } | null;
}

export function jobJson(job: JobView): TrainJobJson {
  const { id, order, state, position, progress, result, failure } = job;
  return {
    object: 'train.job',
    id,
    task: order.task,
    from: order.from ?? null,
    parent: job.parent ?? null,
    state,
    position: position ?? null,
    sources: order.sources,
    guards: order.guards,
    settings: order.settings,
    force: order.force,
    tuneTeacher: order.tuneTeacher ?? null,
    created_at: iso(job.createdAt),
    started_at: job.startedAt === undefined ? null : iso(job.startedAt),
    ended_at: job.endedAt === undefined ? null : iso(job.endedAt),
    event: lastEvent(progress) ?? null,
    finished: progress.finished ?? null,
    digest: result?.digest ?? null,
    bytes: result?.bytes ?? null,
    error: failure ?? null,
  };
}

/** An event of GET /v1/train/:id/events. */
export function jobEventJson(event: JobEvent): unknown {
  return event.type === 'job' ? { type: 'job', job: jobJson(event.job) } : event;
}

function iso(milliseconds: number): string {
  return new Date(milliseconds).toISOString();
}
