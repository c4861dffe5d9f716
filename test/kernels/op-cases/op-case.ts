/** A call of some ops on seeded inputs, whose outputs agree wherever it runs: on every instruction set, any number of threads, a GPU. */
import assert from 'node:assert/strict';
import { native } from '../../../kernels/index.js';
import { assertSameBits, random, relativeError, type Random } from '../numbers.js';
import { scoped, type Scope } from '../scope.js';

export type Outputs = Readonly<Record<string, Float32Array | Float64Array | Uint16Array | Uint8Array | Int32Array>>;

/** How far results may be apart, ‖difference‖ / ‖expected‖; `bits`: not at all. */
export type Agreement = number | 'bits';

/** Sums in another order. */
export const FP32: Agreement = 2e-5;
/** Operands rounded to bf16 on one side. */
export const BF16: Agreement = 8e-3;

export interface OpCase {
  readonly name: string;
  readonly agreement: Agreement;
  readonly precision: 'bf16' | 'f32';
  readonly body: (scope: Scope, next: Random) => Outputs;
}

export function opCase(
  name: string,
  agreement: Agreement,
  body: OpCase['body'],
  precision: OpCase['precision'] = 'f32',
): OpCase {
  return { name, agreement, body, precision };
}

/** The case's outputs on what this thread's ops run on. Leaves products in bf16. */
export function outputsOf({ body, precision }: OpCase): Outputs {
  native.setPrecision(precision);
  try {
    return scoped((scope) => body(scope, random(7)));
  } finally {
    native.setPrecision('bf16');
  }
}

/** Asserts that every output agrees with what is expected; the largest relative error of those that need not have the same bits. */
export function assertAgree(actual: Outputs, expected: Outputs, agreement: Agreement, where: string): number {
  assert.deepEqual(Object.keys(actual), Object.keys(expected));
  let worst = 0;
  for (const [output, values] of Object.entries(expected)) {
    const got = actual[output] as typeof values;
    if (agreement === 'bits') {
      assertSameBits(got, values, `${output} differs ${where}`);
      continue;
    }
    const error = relativeError(got, values);
    assert.ok(error <= agreement, `expected ${output} within ${agreement} but it is ${error} away ${where}`);
    worst = Math.max(worst, error);
  }
  return worst;
}
