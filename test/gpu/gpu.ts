/**
 * The door of the tests that need a GPU: whether one is there, and a body run on either backend. `make -C kernels cuda-on-host` builds a
 * stand-in, whose kernels run on this machine's processor, for MASKSERVE_CUDA_LIBRARY: so `npm test` runs them all (kernels/cuda/stand-in.test.ts).
 */
import { test } from 'node:test';
import { native, type BackendName, type CudaReport } from '../../kernels/index.js';

const probe = native.probeCuda();

/** What node:test takes as `skip`: the reason that `maskctl doctor` gives, or false where the backend runs. */
export const noGpu: string | false = probe.usable ? false : probe.reason;

/** The library is the stand-in: right, and some ten thousand times as slow as a GPU. */
export const onStandIn = probe.usable && (JSON.parse(probe.report) as CudaReport).architectures.includes('sm_host');

/** A test that is skipped, with the reason printed, where the CUDA backend can't run. */
export function gpuTest(name: string, body: () => void): void {
  test(name, { skip: noGpu }, body);
}

/** Runs `body` with this thread's ops on `backend`; afterwards they are on the CPU again. */
export function runningOn<T>(backend: BackendName, body: () => T): T {
  native.useBackend(backend);
  try {
    return body();
  } finally {
    native.useBackend('cpu');
    native.setPrecision('bf16');
  }
}
