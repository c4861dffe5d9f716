/**
 * The CUDA kernels on a machine without a GPU: compiled by g++ against a stand-in for the execution model (`make -C kernels cuda-host`)
 * and compared with the CPU backend, each case with the threads of a block in two orders.
 */
import { spawnSync, type SpawnSyncReturns } from 'node:child_process';
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const kernels = fileURLToPath(new URL('../../../../kernels/', import.meta.url));
const cases = `${kernels}build/cuda-host/cases`;

function run(command: string, args: readonly string[]): SpawnSyncReturns<string> {
  return spawnSync(command, args, { encoding: 'utf8', cwd: kernels });
}

const compiler = process.env['CXX'] ?? 'g++';
if (run(compiler, ['--version']).status !== 0) {
  test('the CUDA kernels on the host', { skip: `no C++ compiler: ${compiler} is not there` }, () => undefined);
} else {
  const built = run('make', ['--silent', 'cuda-host']);
  test('the kernels compile for the host', () => {
    assert.equal(built.status, 0, built.stderr);
  });
  const names = built.status === 0 ? run(cases, ['--list']).stdout.split('\n').filter(Boolean) : [];
  for (const name of names) {
    test(name, () => {
      const { status, signal, stderr } = run(cases, [name]);
      assert.equal(status, 0, `${stderr}${signal ?? ''}`);
    });
  }
  test('a case that is not there is an error', { skip: names.length === 0 }, () => {
    assert.equal(run(cases, ['nothing']).status, 1);
  });
}
