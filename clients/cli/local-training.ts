/** Training in this process. Imported when needed, because it loads the native kernels. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { decodeMaskSet } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import { CodecError } from '../../codec/errors.js';
import type { MaskSet } from '../../codec/mask-set.js';
import type { Model } from '../../server/engine/model.js';
import { removeCheckpoint } from '../../server/trainer/checkpoint.js';
import { runTraining, type CheckpointOptions } from '../../server/trainer/run.js';
import { TrainingStopped } from '../../server/trainer/run-steps.js';
import type { TrainEvent, TrainFinished, TrainRequest } from '../../server/trainer/types.js';
import { openModel } from './local-model.js';
import type { Progress } from './progress.js';
import type { TextOptions } from './text-options.js';

export interface LocalRun {
  readonly request: TrainRequest;
  readonly checkpoint: CheckpointOptions;
  readonly activationBytes?: number;
  readonly signal: AbortSignal;
  readonly onEvent: (event: TrainEvent) => void;
}

export interface Learned {
  readonly container: Uint8Array;
  readonly finished: TrainFinished;
}

/** Learns a mask. Throws TrainingStopped when the signal came first. */
export async function trainLocally(options: TextOptions, run: LocalRun, progress: Progress): Promise<Learned> {
  const model = openModel(options);
  try {
    const { from } = run.request;
    const parent = from === undefined ? undefined : maskSetNamed(model, from);
    const events = runTraining(model, run.request, {
      checkpoint: run.checkpoint,
      signal: run.signal,
      onProgress: (stage, done, of) => progress.update(done, of, stage),
      ...(run.activationBytes === undefined ? {} : { activationBytes: run.activationBytes }),
      ...(parent ? { parent } : {}),
    });
    let finished: TrainFinished | undefined;
    let next = await events.next();
    for (; !next.done; next = await events.next()) {
      if (next.value.type === 'finished') finished = next.value;
      run.onEvent(next.value);
    }
    return { container: encodeMaskSet(next.value), finished: finished as TrainFinished };
  } finally {
    model.dispose();
  }
}

/** The mask set in a file, or that the model ships under this task's name. Throws one line. */
export function maskSetNamed(model: Model, from: string): MaskSet {
  const shipped = join(model.info.directory, 'masks', `${from}.mask`);
  const path = existsSync(from) ? from : shipped;
  if (!existsSync(path)) {
    throw new Error(
      `expected --from to be a mask file, or a task that comes with ${model.info.directory}, but received ${from}; "maskctl pull ${from}" fetches a server's`,
    );
  }
  try {
    return decodeMaskSet(readFileSync(path), { expectBase: model.info.base });
  } catch (error) {
    if (error instanceof CodecError) throw new Error(`${path}: ${error.message}`, { cause: error });
    throw error;
  }
}

/** The run is over and its result is stored. */
export { removeCheckpoint };

/** Whether an error is a run that was asked to stop. */
export function isStopped(error: unknown): error is TrainingStopped {
  return error instanceof TrainingStopped;
}
