/** The thread that trains, as the HTTP thread sees it: one run, events on the way, one outcome. */
import { Worker } from 'node:worker_threads';
import type { FromTraining, TrainingOrder, TrainingOutcome } from './training-protocol.js';
import { DROP, SAVE } from './training-protocol.js';

export type TrainingMessage = Exclude<FromTraining, TrainingOutcome>;

export interface TrainingThread {
  /** Resolves when the thread has ended and everything it held is free; never rejects. */
  readonly outcome: Promise<TrainingOutcome>;
  /** Asks it to end after the step it is at. `save`: with its state on disk. */
  stop(how: 'save' | 'drop'): void;
  /** Ends it now. */
  terminate(): Promise<void>;
}

export function startTraining(
  order: Omit<TrainingOrder, 'stop'>,
  onMessage: (message: TrainingMessage) => void,
): TrainingThread {
  const stop = new Int32Array(new SharedArrayBuffer(4));
  const workerData: TrainingOrder = { ...order, stop };
  const worker = new Worker(new URL('./training-worker.js', import.meta.url), { workerData, name: 'training' });
  let terminated = false;
  const outcome = new Promise<TrainingOutcome>((resolve) => {
    let result: TrainingOutcome | undefined;
    worker.on('message', (message: FromTraining) => {
      if (message.type === 'event' || message.type === 'progress') onMessage(message);
      else result = message;
    });
    worker.on('error', (error: unknown) => (result = died(error instanceof Error ? error.message : String(error))));
    worker.on('exit', (code) => {
      const ended = terminated ? ({ type: 'stopped' } as const) : died(`it exited with code ${code}`);
      resolve(result ?? ended);
    });
  });
  return {
    outcome,
    stop: (how) => Atomics.store(stop, 0, how === 'save' ? SAVE : DROP),
    terminate: async () => {
      terminated = true;
      await worker.terminate();
    },
  };
}

function died(reason: string): TrainingOutcome {
  return { type: 'failed', message: `the training thread ended: ${reason}` };
}
