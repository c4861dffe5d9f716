/** Messages between the HTTP thread (training-thread.ts) and the thread that trains (training-worker.ts). */
import type { BackendName } from '../../kernels/backend-types.js';
import type { TunedTeacherSettings } from './types.js';
import type { MaskTrainingSettings, TrainEvent } from '../trainer/types.js';

/** Word 0 of `stop`. */
export const GO_ON = 0;
/** Save the state and end. */
export const SAVE = 1;
/** End: the state is of no use to anybody. */
export const DROP = 2;

export interface TrainingOrder {
  readonly modelDirectory: string;
  readonly maxContext: number | undefined;
  readonly backend: BackendName;
  /** Of a GPU: the most that may be taken there. */
  readonly deviceBytes: number | undefined;
  readonly threads: number;
  readonly task: string;
  readonly from?: string;
  readonly settings: MaskTrainingSettings;
  readonly force: boolean;
  readonly tuneTeacher?: TunedTeacherSettings;
  /** The body of the request. */
  readonly request: string;
  /** Container of the mask to start from; undefined without `from`. */
  readonly parent: string | undefined;
  readonly checkpoint: { readonly directory: string; readonly everySeconds: number };
  /** (1), shared. */
  readonly stop: Int32Array;
}

/** The mask in containers that the server can decode beside its weights. */
export interface Learned {
  /** Needs no parent. */
  readonly flat: Uint8Array;
  /** Coded against the parent: smaller, as long as the store has that. */
  readonly patch?: Uint8Array;
}

export type FromTraining =
  | { readonly type: 'progress'; readonly stage: string; readonly done: number; readonly of: number }
  | { readonly type: 'event'; readonly event: TrainEvent }
  | TrainingOutcome;

export type TrainingOutcome =
  | { readonly type: 'learned'; readonly learned: Learned }
  | { readonly type: 'stopped' }
  | { readonly type: 'failed'; readonly message: string };
