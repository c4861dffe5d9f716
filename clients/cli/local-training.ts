/** Training in this process. Imported when needed, because it loads the native kernels. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { decodeMaskSet } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import { CodecError } from '../../codec/errors.js';
import type { MaskSet } from '../../codec/mask-set.js';
import type { Model } from '../../server/engine/model.js';
import { removeCheckpoint } from '../../server/trainer/checkpoint.js';
import { runPrepare } from '../../server/trainer/prepare.js';
import type { PrepareEvent, PrepareFinished, PrepareRequest } from '../../server/trainer/prepare-types.js';
import { runTraining } from '../../server/trainer/run.js';
import type { TrainEvent, TrainFinished, TrainRequest } from '../../server/trainer/types.js';
import type { TeacherChoice } from '../../server/trainer/teacher.js';
import { openModel } from './local-model.js';
import type { RunHooks } from './reported-run.js';
import type { TextOptions } from './text-options.js';

export interface Learned {
  readonly container: Uint8Array;
  readonly finished: TrainFinished;
}

/** Whom KL is taken to, when that is not the dense model. */
interface Taught {
  readonly teacher?: TeacherChoice;
}

/** Learns a mask. Throws TrainingStopped when the signal came first. */
export async function trainLocally(
  options: TextOptions,
  request: TrainRequest,
  hooks: RunHooks & Taught,
  onEvent: (event: TrainEvent) => void,
): Promise<Learned> {
  const model = openModel(options);
  try {
    const { from } = request;
    const parent = from === undefined ? undefined : maskSetNamed(model, from);
    const events = runTraining(model, request, { ...hooks, ...(parent ? { parent } : {}) });
    let finished: TrainFinished | undefined;
    let next = await events.next();
    for (; !next.done; next = await events.next()) {
      if (next.value.type === 'finished') finished = next.value;
      onEvent(next.value);
    }
    return { container: encodeMaskSet(next.value), finished: finished as TrainFinished };
  } finally {
    model.dispose();
  }
}

/** Prepares a base into the directory `out`. `mask`: to keep, as `--mask` names it. */
export async function prepareLocally(
  options: TextOptions & { readonly out: string; readonly mask?: string },
  request: PrepareRequest,
  hooks: RunHooks & Taught,
  onEvent: (event: PrepareEvent) => void,
): Promise<PrepareFinished> {
  const model = openModel(options);
  try {
    const mask = options.mask === undefined ? undefined : maskSetNamed(model, options.mask);
    let finished: PrepareFinished | undefined;
    for await (const event of runPrepare(model, request, { ...hooks, out: options.out, ...(mask ? { mask } : {}) })) {
      if (event.type === 'finished') finished = event;
      onEvent(event);
    }
    return finished as PrepareFinished;
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
      `expected a mask file, or a task that comes with ${model.info.directory}, but received ${from}; "maskctl pull ${from}" fetches a server's`,
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
