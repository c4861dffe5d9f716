/**
 * The door of the tests that need a GPU: whether one is there, and one body run on both backends. `make -C kernels cuda-on-host` builds a
 * stand-in, whose kernels run on this machine's processor, for MASKSERVE_CUDA_LIBRARY: so `npm test` runs them all (kernels/cuda/stand-in.test.ts).
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { native, type BackendName, type CudaReport } from '../../kernels/index.js';
import { assertSameBits, random, relativeError, type Random } from '../kernels/numbers.js';
import { scoped, type Scope } from '../kernels/scope.js';

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

export type Outputs = Readonly<Record<string, Float32Array | Float64Array | Uint16Array | Uint8Array | Int32Array>>;

/** How far results may be from the CPU's, ‖difference‖ / ‖expected‖; `bits`: not at all. */
export type Agreement = number | 'bits';

/** Sums in another order. */
export const FP32: Agreement = 2e-5;
/** Operands rounded to bf16 on one side. */
export const BF16: Agreement = 8e-3;

/** `body` on the CPU and on the GPU with the same inputs: every output agrees. */
export function sameOnBoth(
  name: string,
  agreement: Agreement,
  body: (scope: Scope, next: Random) => Outputs,
  precision: 'bf16' | 'f32' = 'f32',
): void {
  gpuTest(name, () => {
    const outputs = (backend: BackendName): Outputs =>
      runningOn(backend, () => {
        native.setPrecision(precision);
        return scoped((scope) => body(scope, random(7)));
      });
    const expected = outputs('cpu');
    const actual = outputs('cuda');
    assert.deepEqual(Object.keys(actual), Object.keys(expected));
    for (const [output, values] of Object.entries(expected))
      agree(actual[output] as typeof values, values, agreement, output);
  });
}

function agree(actual: Outputs[string], expected: Outputs[string], agreement: Agreement, output: string): void {
  if (agreement === 'bits') return assertSameBits(actual, expected, `${output} differs`);
  const error = relativeError(actual, expected);
  assert.ok(error <= agreement, `expected ${output} within ${agreement} of the CPU's but it is ${error} away`);
}
