/**
 * NVIDIA's two matrix libraries, their places taken by plain loops over host memory (../backend/host_cublaslt.cpp, host_cusparselt.cpp): what the backend does with each
 * version and each layout, and that the tests of test/gpu pass through both.
 */
import { spawnSync } from 'node:child_process';
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { CudaReport } from '../../../kernels/index.js';
import { compileLibrary, scratch } from '../backend/libraries.js';
import {
  assertNoneSkipped,
  buildOnHost,
  noCompiler as skip,
  ON_HOST,
  runGpuTests,
  type Environment,
} from './on-host.js';

const folder = scratch();
const [sparse, dense] = [join(folder, 'libcusparseLt.so.0'), join(folder, 'libcublasLt.so.13')];
const both: Environment = { ...ON_HOST, MASKSERVE_CUSPARSELT: sparse, MASKSERVE_CUBLASLT: dense };

test('the backend and both stand-ins build for the host', { skip }, () => {
  buildOnHost();
  compileLibrary('host_cusparselt.cpp', sparse, ['-O2', '-DMASKSERVE_CUDA_ON_HOST']);
  compileLibrary('host_cublaslt.cpp', dense, ['-O2', '-DMASKSERVE_CUDA_ON_HOST']);
});

for (const [file, lines] of [
  [
    'op-table',
    [
      'cusparselt searches',
      'cusparselt multiplies',
      'cublaslt multiplies TN',
      'cublaslt multiplies NN',
      'cublaslt multiplies NT',
    ],
  ],
  ['loads', ['cusparselt multiplies']],
  ['priors', ['cusparselt multiplies']],
] as const) {
  test(`gpu/${file}.test.js passes through them, none of its tests skipped`, { skip }, () => {
    const run = runGpuTests(`${file}.test.js`, both);
    assertNoneSkipped(run);
    for (const line of lines) assert.match(run.stdout, new RegExp(`^# host_${line}$`, 'm'));
  });
}

interface Multiplied {
  readonly packedBytes: number;
  readonly parts: CudaReport['parts'];
  readonly product: readonly number[];
  /** Working memory that the product took. */
  readonly workingBytes: number;
  readonly stderr: string;
}

/** Bytes of a 32 × 64 matrix, what doctor says, and its product with 40 tokens. */
function multiplied(env: Environment): Multiplied {
  const index = new URL('../../../kernels/index.js', import.meta.url).href;
  const numbers = new URL('../numbers.js', import.meta.url).href;
  const code = `
    const { native } = await import(${JSON.stringify(index)});
    const { floats, metadata, random, weights } = await import(${JSON.stringify(numbers)});
    native.useBackend('cuda');
    const [next, tokens, n, k] = [random(5), 40, 32, 64];
    const put = (array) => { const h = native.alloc(array.byteLength); native.write(h, 0, array); return h; };
    const packed = native.alloc(native.packedBytes(n, k));
    native.compress24(packed, put(weights(next, n * k)), put(metadata(next, (n * k) / 8)), n, k);
    const y = native.alloc(tokens * n * 4);
    const x = put(floats(next, tokens * k));
    const { freeBytes } = native.memory();
    native.matmul24(y, x, packed, tokens, n, k);
    const workingBytes = freeBytes - native.memory().freeBytes;
    const product = new Float32Array(tokens * n);
    native.read(y, 0, product);
    const { parts } = JSON.parse(native.probeCuda().report);
    console.log(JSON.stringify({ packedBytes: native.packedBytes(n, k), parts, product: [...product], workingBytes }));`;
  const run = spawnSync(process.execPath, ['--input-type=module', '-e', code], {
    env: { ...process.env, ...env },
    encoding: 'utf8',
  });
  assert.equal(run.status, 0, run.stderr);
  return { ...(JSON.parse(run.stdout) as Omit<Multiplied, 'stderr'>), stderr: run.stderr };
}

function sparsePart({ parts }: Multiplied): CudaReport['parts'][number] {
  return parts.find(({ name }) => name === 'cuSPARSELt')!;
}

const EIGHTH = (32 * 64) / 8;

test('where the form has our values, a task pays for its metadata alone: 10/16 of the dense matrix', { skip }, () => {
  const shared = multiplied(both);
  assert.equal(shared.packedBytes, 10 * EIGHTH);
  const { version, warning, file } = sparsePart(shared);
  assert.deepEqual({ version, warning, file }, { version: '0.8.1', warning: null, file: sparse });
});

test('a form that lies otherwise is not used, unless a copy of it is asked for: 18/16', { skip }, () => {
  const apart = multiplied({ ...both, HOST_CUSPARSELT_FORM: 'apart' });
  assert.equal(apart.packedBytes, 9 * EIGHTH);
  assert.match(
    sparsePart(apart).warning ?? '',
    /not used: its form does not share our values.*MASKSERVE_CUSPARSELT_COPY=1/,
  );
  const copied = multiplied({ ...both, HOST_CUSPARSELT_FORM: 'apart', MASKSERVE_CUSPARSELT_COPY: '1' });
  assert.equal(copied.packedBytes, 18 * EIGHTH);
  assert.match(sparsePart(copied).warning ?? '', /a task takes 18\/16 of its dense matrices/);
  assert.match(copied.stderr, /host_cusparselt searches/);
});

test('a library whose products are wrong is found out when the backend starts', { skip }, () => {
  const wrong = multiplied({ ...both, HOST_CUSPARSELT_FORM: 'wrong' });
  assert.equal(wrong.packedBytes, 9 * EIGHTH);
  assert.match(sparsePart(wrong).warning ?? '', /not used: its product differs from ours by [\d.]+ in the self-test/);
});

test('0.8.0 is used with a warning, what is older is refused with what to install', { skip }, () => {
  const slow = sparsePart(multiplied({ ...both, HOST_CUSPARSELT_VERSION: '0.8.0' }));
  assert.match(slow.warning ?? '', /0\.8\.0 is slower on H100 and L4.*used after a self-test/);
  const old = sparsePart(multiplied({ ...both, HOST_CUSPARSELT_VERSION: '0.7.1' }));
  assert.equal(old.file, null);
  assert.match(old.refused[0]?.reason ?? '', /expected version 0\.8\.1 or later but it is 0\.7\.1; pip install/);
});

test('what was measured is kept for the next process, by device, versions, shape and tokens', { skip }, () => {
  const file = join(folder, 'choices.tsv');
  const env = { ...both, MASKSERVE_CUDA_CHOICES: file };
  const first = multiplied(env);
  assert.match(first.stderr, /host_cusparselt searches/);
  assert.ok(existsSync(file));
  const lines = readFileSync(file, 'utf8').trim().split('\n');
  assert.equal(lines.length, 1);
  assert.match(lines[0]!, /\t0\.8\.1\t13\.1\.1\t32\t64\t64\t/);
  // cuBLASLt's 32 MiB once, and not for every run that was measured.
  assert.ok(first.workingBytes < 48 * 2 ** 20, `${first.workingBytes} bytes of working memory`);
  const second = multiplied(env);
  assert.doesNotMatch(second.stderr, /searches/);
  assert.deepEqual(second.product, first.product);
  const other = multiplied({ ...env, HOST_CUSPARSELT_VERSION: '0.8.2' });
  assert.match(other.stderr, /searches/);
});
