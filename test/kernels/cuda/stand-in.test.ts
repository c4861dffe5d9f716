/**
 * What a GPU must show (test/gpu), shown without one: the CUDA backend with its kernels compiled for the host and the runtime over host memory
 * (`make -C kernels cuda-on-host`), loaded by the addon as the real one is.
 */
import { spawnSync } from 'node:child_process';
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const kernels = fileURLToPath(new URL('../../../../kernels/', import.meta.url));
const folder = fileURLToPath(new URL('../../gpu/', import.meta.url));
const library = `${kernels}build/libmaskserve_cuda_on_host.so`;
const compiler = process.env['CXX'] ?? 'g++';
const skip = spawnSync(compiler, ['--version']).status !== 0 && `no C++ compiler: ${compiler} is not there`;

test('the backend builds for the host', { skip }, () => {
  const { status, stderr } = spawnSync('make', ['--silent', 'cuda-on-host'], { cwd: kernels, encoding: 'utf8' });
  assert.equal(status, 0, stderr);
});

for (const file of readdirSync(folder).filter((name) => name.endsWith('.test.js'))) {
  test(`gpu/${file} passes on the host, none of its tests skipped`, { skip }, () => {
    const inherited = { ...process.env, NODE_TEST_CONTEXT: undefined };
    const env = {
      ...inherited,
      MASKSERVE_CUDA_LIBRARY: library,
      MASKSERVE_CUDA_CHOICES: '',
      MASKSERVE_HOST_GPU_BYTES: String(2 ** 32),
    };
    const { status, stdout } = spawnSync(process.execPath, ['--test', '--test-reporter=tap', `${folder}${file}`], {
      env,
      encoding: 'utf8',
    });
    assert.equal(status, 0, stdout);
    assert.match(stdout, /^# skipped 0$/m);
    assert.match(stdout, /^# pass [1-9]/m);
  });
}
