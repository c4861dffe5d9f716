/** Runs a target in a thread of its own and turns a crash or a hang into a violation. */
import { Worker } from 'node:worker_threads';
import type { FuzzOptions, FuzzReport } from './loop.js';
import type { WorkerInput } from './worker.js';

export interface WatchOptions {
  /** A thread without a finished input for so long hangs. */
  readonly hangMs: number;
  readonly onProgress?: (done: number) => void;
}

export async function fuzzTarget(module: URL, options: FuzzOptions, watch: WatchOptions): Promise<FuzzReport> {
  const progress = new Int32Array(new SharedArrayBuffer(4)).fill(-1);
  const input: WorkerInput = { module: module.href, options, progress };
  const worker = new Worker(new URL('./worker.js', import.meta.url), {
    workerData: input,
    // The fuzzer's own garbage would else take 50 MB before it is collected, and hide what the target takes.
    resourceLimits: { maxYoungGenerationSizeMb: 8 },
  });
  const hang = watchProgress(progress, watch);
  try {
    return await Promise.race([report(worker), hang.promise]);
  } catch (error) {
    const at = options.first + Math.max(0, Atomics.load(progress, 0));
    return {
      iterations: Math.max(0, Atomics.load(progress, 0)),
      outcomes: {},
      memoryGrowthBytes: 0,
      slowestMs: 0,
      violations: [`input ${at}: ${error instanceof Error ? error.message : String(error)}`],
    };
  } finally {
    hang.stop();
    await worker.terminate();
  }
}

function report(worker: Worker): Promise<FuzzReport> {
  return new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', (error) => reject(new Error(`the thread crashed: ${error.stack}`)));
    worker.once('exit', (code) => reject(new Error(`the thread ended with code ${code}`)));
  });
}

function watchProgress(progress: Int32Array, watch: WatchOptions): { promise: Promise<never>; stop: () => void } {
  let last = { done: -2, at: performance.now() };
  let timer: NodeJS.Timeout | undefined;
  const promise = new Promise<never>((_, reject) => {
    timer = setInterval(() => {
      const done = Atomics.load(progress, 0);
      watch.onProgress?.(Math.max(0, done));
      if (done !== last.done) last = { done, at: performance.now() };
      else if (performance.now() - last.at > watch.hangMs)
        reject(new Error(`no answer in ${watch.hangMs / 1000} s: it hangs`));
    }, 500);
  });
  return { promise, stop: () => clearInterval(timer) };
}
