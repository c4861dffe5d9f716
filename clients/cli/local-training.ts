/** Training in this process. Imported when needed, because it loads the native kernels. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { encodeMaskSet } from '../../codec/encode.js';
import type { MaskSet } from '../../codec/mask-set.js';
import type { Model } from '../../server/engine/model.js';
import { removeCheckpoint } from '../../server/trainer/checkpoint.js';
import { runPrepare } from '../../server/trainer/prepare.js';
import type { PrepareEvent, PrepareFinished, PrepareRequest } from '../../server/trainer/prepare-types.js';
import { runTraining } from '../../server/trainer/run.js';
import type { TrainEvent, TrainFinished, TrainRequest } from '../../server/trainer/types.js';
import type { TeacherChoice } from '../../server/trainer/teacher.js';
import { frozenWeights } from '../../server/store/frozen-weights.js';
import { beside, openModel } from './local-model.js';
import { readMaskSet } from './mask-file.js';
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

/** What the file may stand on. */
interface Coding {
  /** Of the mask that is named. */
  readonly parent?: string;
  /** The result needs neither parent nor weights. */
  readonly flat?: true;
}

/** Learns a mask, coded as a patch of the mask that it starts from and by the weights. Throws TrainingStopped when the signal came first. */
export async function trainLocally(
  options: TextOptions & Coding,
  request: TrainRequest,
  hooks: RunHooks & Taught,
  onEvent: (event: TrainEvent) => void,
): Promise<Learned> {
  const model = openModel(options);
  try {
    const { from } = request;
    const parent = from === undefined ? undefined : maskSetNamed(model, from, options.parent);
    const events = runTraining(model, request, { ...hooks, ...(parent ? { parent } : {}) });
    let finished: TrainFinished | undefined;
    let next = await events.next();
    for (; !next.done; next = await events.next()) {
      if (next.value.type === 'finished') finished = next.value;
      onEvent(next.value);
    }
    const weights = frozenWeights(model.info.maskable);
    const context = options.flat ? {} : { weights, ...(parent ? { parent } : {}) };
    return { container: encodeMaskSet(next.value, { context }), finished: finished as TrainFinished };
  } finally {
    model.dispose();
  }
}

/** Prepares a base into the directory `out`. `mask`: to keep, as `--mask` names it. */
export async function prepareLocally(
  options: TextOptions & Coding & { readonly out: string; readonly mask?: string },
  request: PrepareRequest,
  hooks: RunHooks & Taught,
  onEvent: (event: PrepareEvent) => void,
): Promise<PrepareFinished> {
  const model = openModel(options);
  try {
    const mask = options.mask === undefined ? undefined : maskSetNamed(model, options.mask, options.parent);
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

/** The mask set in a file, or that the model ships under this task's name; `parent`: a file of its parent. Throws one line. */
export function maskSetNamed(model: Model, from: string, parent?: string): MaskSet {
  const shipped = join(model.info.directory, 'masks', `${from}.mask`);
  const path = existsSync(from) ? from : shipped;
  if (!existsSync(path)) {
    throw new Error(
      `expected a mask file, or a task that comes with ${model.info.directory}, but received ${from}; "maskctl pull ${from}" fetches a server's`,
    );
  }
  return readMaskSet(path, beside(model, parent));
}

/** The run is over and its result is stored. */
export { removeCheckpoint };
