/** The CUDA backend with its kernels compiled for the host and the runtime over host memory (`make -C kernels cuda-on-host`), for tests that run it. */
import { spawnSync, type SpawnSyncReturns } from 'node:child_process';
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';

export type Environment = Readonly<Record<string, string>>;

const kernels = fileURLToPath(new URL('../../../../kernels/', import.meta.url));
const compiler = process.env['CXX'] ?? 'g++';

/** What node:test takes as `skip`. */
export const noCompiler =
  spawnSync(compiler, ['--version']).status !== 0 && `no C++ compiler: ${compiler} is not there`;

/** With this a process of the addon's finds it, and nothing that another has measured. */
export const ON_HOST: Environment = {
  MASKSERVE_CUDA_LIBRARY: `${kernels}build/libmaskserve_cuda_on_host.so`,
  MASKSERVE_CUDA_CHOICES: '',
  MASKSERVE_HOST_GPU_BYTES: String(2 ** 32),
};

/** Builds what changed for a target of cuda/host/host.mk; test files that run at once take turns. */
export function make(target: 'cuda-host' | 'cuda-host-faults' | 'cuda-on-host'): SpawnSyncReturns<string> {
  return spawnSync('flock', [kernels, 'make', '--silent', target], { cwd: kernels, encoding: 'utf8' });
}

export function buildOnHost(): void {
  const { status, stderr } = make('cuda-on-host');
  assert.equal(status, 0, stderr);
}

/** A file of test/gpu in a process of its own. */
export function runGpuTests(file: string, env: Environment): SpawnSyncReturns<string> {
  const path = fileURLToPath(new URL(`../../gpu/${file}`, import.meta.url));
  return spawnSync(process.execPath, ['--test', '--test-reporter=tap', path], {
    env: { ...process.env, NODE_TEST_CONTEXT: undefined, ...env },
    encoding: 'utf8',
  });
}

export function assertNoneSkipped({ status, stdout, stderr }: SpawnSyncReturns<string>): void {
  assert.equal(status, 0, stdout + stderr);
  assert.match(stdout, /^# skipped 0$/m);
  assert.match(stdout, /^# pass [1-9]/m);
}
