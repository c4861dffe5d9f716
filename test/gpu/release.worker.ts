/** The other thread of recorded.test.ts: gives memory of the GPU back when it is told to. */
import { parentPort, workerData } from 'node:worker_threads';
import { native } from '../../kernels/index.js';
import { BEGIN, GIVEN_BACK, GIVING_BACK, STATE } from './release-signals.js';

const signals = workerData as Int32Array;
native.useBackend('cuda');
const buffer = native.alloc(1024);
parentPort?.postMessage('ready');
Atomics.wait(signals, BEGIN, 0);
tell(GIVING_BACK);
native.free(buffer);
tell(GIVEN_BACK);

function tell(state: number): void {
  Atomics.store(signals, STATE, state);
  Atomics.notify(signals, STATE);
}
