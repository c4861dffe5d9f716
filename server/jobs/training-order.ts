/** A job → what its thread is told. */
import type { BackendName } from '../../kernels/backend-types.js';
import type { ModelInfo } from '../engine/types.js';
import type { JobPaths } from './job-files.js';
import type { TrainingOrder } from './training-protocol.js';
import type { JobRecord } from './types.js';

/** What all jobs of a server share. */
export interface TrainingPlace {
  readonly model: Pick<ModelInfo, 'directory'>;
  readonly maxContext: number | undefined;
  /**
   * Where jobs train. One that an earlier server began goes on here, wherever that was: another backend sums in another order, so numbers differ in their last bits from
   * then on, and the mask where two weights score nearly alike.
   */
  readonly backend: BackendName;
  /** Of a GPU: the most that a job may take there. One that needs more fails before it takes anything. */
  readonly deviceBytes: number | undefined;
  readonly threads: number;
  /** Between two checkpoints: work that a kill may cost. */
  readonly checkpointSeconds: number;
}

/** `paths`: of the job's files. */
export function orderOf(
  { order, parent }: JobRecord,
  paths: JobPaths,
  { model, threads, maxContext, backend, deviceBytes, checkpointSeconds }: TrainingPlace,
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
