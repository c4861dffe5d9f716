/** A job → what its thread is told. */
import type { JobPaths } from './job-files.js';
import type { TrainingOrder } from './training-protocol.js';
import type { TrainingJobsOptions } from './training-jobs.js';
import type { JobRecord } from './types.js';

/** `paths`: of the job's files. */
export function orderOf(
  { order, parent }: JobRecord,
  paths: JobPaths,
  { model, threads, maxContext, backend, deviceBytes, checkpointSeconds }: TrainingJobsOptions,
): Omit<TrainingOrder, 'stop'> {
  return {
    modelDirectory: model.directory,
    maxContext,
    backend,
    deviceBytes,
    threads,
    task: order.task,
    ...(order.from === undefined ? {} : { from: order.from }),
    settings: order.settings,
    force: order.force,
    ...(order.tuneTeacher ? { tuneTeacher: order.tuneTeacher } : {}),
    request: paths.request,
    parent: parent === undefined ? undefined : paths.parent,
    checkpoint: { directory: paths.checkpoint, everySeconds: checkpointSeconds },
  };
}
