/** The other thread of buffers.test.ts: does one thing with the native addon and posts what came of it. */
import { parentPort, workerData } from 'node:worker_threads';
import { native, type Handle } from '../../kernels/index.js';

export type Job =
  | { readonly kind: 'double'; readonly buffer: Handle; readonly n: number }
  | { readonly kind: 'allocate'; readonly bytes: number }
  | { readonly kind: 'settings' }
  | { readonly kind: 'churn'; readonly buffer: Handle; readonly n: number; readonly rounds: number };

const job = workerData as Job;
parentPort?.postMessage(run(job));

function run(task: Job): unknown {
  switch (task.kind) {
    case 'double':
      native.add(task.buffer, task.buffer, task.n);
      native.free(task.buffer);
      return native.info().isa;
    case 'allocate': {
      const buffer = native.alloc(task.bytes);
      native.write(buffer, 0, Uint8Array.of(1, 2, 3));
      return buffer;
    }
    case 'settings':
      native.setThreads(3);
      return native.info().threads;
    case 'churn':
      return churn(task.buffer, task.n, task.rounds);
  }
}

/** Uses the buffer until another thread frees it: `used` calls succeeded, then the handle was refused. */
function churn(buffer: Handle, n: number, rounds: number): { used: number; refusal: string } {
  const sum = native.alloc(n * 4);
  try {
    for (let used = 0; used < rounds; used++) {
      try {
        native.add(sum, buffer, n);
      } catch (error) {
        return { used, refusal: String(error) };
      }
      if (used === 10) parentPort?.postMessage('going');
    }
    return { used: rounds, refusal: '' };
  } finally {
    native.free(sum);
  }
}
