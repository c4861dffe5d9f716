/**
 * What a GPU must show (test/gpu), shown without one: the CUDA backend with its kernels compiled for the host and the runtime over host memory
 * (`make -C kernels cuda-on-host`), loaded by the addon as the real one is.
 */
import { spawnSync, type SpawnSyncReturns } from 'node:child_process';
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { compileLibrary, scratch } from '../backend/libraries.js';

const kernels = fileURLToPath(new URL('../../../../kernels/', import.meta.url));
const folder = fileURLToPath(new URL('../../gpu/', import.meta.url));
const library = `${kernels}build/libmaskserve_cuda_on_host.so`;
const compiler = process.env['CXX'] ?? 'g++';
const skip = spawnSync(compiler, ['--version']).status !== 0 && `no C++ compiler: ${compiler} is not there`;

test('the backend builds for the host', { skip }, () => {
  const { status, stderr } = spawnSync('make', ['--silent', 'cuda-on-host'], { cwd: kernels, encoding: 'utf8' });
  assert.equal(status, 0, stderr);
});

/** A file of test/gpu in a process of its own. */
function run(file: string, more: Readonly<Record<string, string>> = {}): SpawnSyncReturns<string> {
  const inherited = { ...process.env, NODE_TEST_CONTEXT: undefined };
  const env = {
    ...inherited,
    MASKSERVE_CUDA_LIBRARY: library,
    MASKSERVE_CUDA_CHOICES: '',
    MASKSERVE_HOST_GPU_BYTES: String(2 ** 32),
    ...more,
  };
  return spawnSync(process.execPath, ['--test', '--test-reporter=tap', `${folder}${file}`], { env, encoding: 'utf8' });
}

function assertPassed({ status, stdout }: SpawnSyncReturns<string>): void {
  assert.equal(status, 0, stdout);
  assert.match(stdout, /^# skipped 0$/m);
  assert.match(stdout, /^# pass [1-9]/m);
}

for (const file of readdirSync(folder).filter((name) => name.endsWith('.test.js'))) {
  test(`gpu/${file} passes on the host, none of its tests skipped`, { skip }, () => assertPassed(run(file)));
}

for (const [file, transposes] of [
  ['forward.test.js', ['TN']],
  ['training.test.js', ['TN', 'NN', 'NT']],
] as const) {
  test(`gpu/${file} passes where cuBLASLt's place is taken by plain loops`, { skip }, () => {
    const blaslt = join(scratch(), 'libcublasLt.so');
    compileLibrary('host_cublaslt.cpp', blaslt, ['-O2', '-DMASKSERVE_CUDA_ON_HOST']);
    const result = run(file, { MASKSERVE_CUBLASLT: blaslt });
    assertPassed(result);
    for (const of of transposes) assert.match(result.stdout, new RegExp(`^# host_cublaslt multiplies ${of}$`, 'm'));
  });
}
