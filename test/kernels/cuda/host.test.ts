/**
 * The CUDA kernels on a machine without a GPU: compiled by g++ against a stand-in for the execution model (`make -C kernels cuda-host`)
 * and compared with the CPU backend, each case with the threads of a block in two orders.
 */
import { spawnSync, type SpawnSyncReturns } from 'node:child_process';
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { make, noCompiler } from './on-host.js';

const cases = fileURLToPath(new URL('../../../../kernels/build/cuda-host/cases', import.meta.url));

function run(...args: string[]): SpawnSyncReturns<string> {
  return spawnSync(cases, args, { encoding: 'utf8' });
}

if (noCompiler !== false) {
  test('the CUDA kernels on the host', { skip: noCompiler }, () => undefined);
} else {
  const built = make('cuda-host');
  test('the kernels compile for the host', () => {
    assert.equal(built.status, 0, built.stderr);
  });
  const names = built.status === 0 ? run('--list').stdout.split('\n').filter(Boolean) : [];
  for (const name of names) {
    test(name, () => {
      const { status, signal, stderr } = run(name);
      assert.equal(status, 0, `${stderr}${signal ?? ''}`);
    });
  }
  test('a case that is not there is an error', { skip: names.length === 0 }, () => {
    assert.equal(run('nothing').status, 1);
  });
}
