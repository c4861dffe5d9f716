/** Holds a task's weights in memory for as long as something runs with them. */
import type { TaskWeights } from '../engine/types.js';
import type { Parts } from './parts.js';
import type { ChosenTask } from './task.js';

/** Loads the task if need be, runs, and gives it back, whatever happens. `weights`: null for dense. Throws what `acquire` and `run` throw. */
export async function withWeights<T>(
  { task, blob }: ChosenTask,
  { residency, metrics }: Parts,
  signal: AbortSignal,
  run: (weights: TaskWeights | null) => Promise<T>,
): Promise<T> {
  if (!blob) return run(null);
  const lease = await residency.acquire(blob.digest, signal);
  try {
    if (lease.cold) metrics.taskLoaded(task, lease.loadMs / 1000);
    signal.throwIfAborted();
    return await run(lease.weights);
  } finally {
    lease.release();
  }
}
