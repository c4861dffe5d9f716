/** A thread with one target in it, so that main.ts sees when it hangs. */
import { parentPort, workerData } from 'node:worker_threads';
import { fuzz, type FuzzOptions } from './loop.js';
import type { TargetModule } from './target.js';

export interface WorkerInput {
  /** URL of the target's module. */
  readonly module: string;
  readonly options: FuzzOptions;
  /** [0]: inputs done */
  readonly progress: Int32Array;
}

const { module, options, progress } = workerData as WorkerInput;
const { makeTarget } = (await import(module)) as TargetModule;
const target = await makeTarget();
try {
  parentPort!.postMessage(await fuzz(target, options, (done) => Atomics.store(progress, 0, done)));
} finally {
  await target.close();
}
