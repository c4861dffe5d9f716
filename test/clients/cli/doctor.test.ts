/** maskctl doctor on machines of every kind: a small library stands where the CUDA backend would. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Examination } from '../../../clients/cli/commands/doctor.js';
import { compileLibrary, scratch } from '../../kernels/backend/libraries.js';

const MASKCTL = fileURLToPath(new URL('../../../clients/cli/main.js', import.meta.url));
const MASKSERVE = fileURLToPath(new URL('../../../server/main.js', import.meta.url));
const folder = scratch();
const library = join(folder, 'fake.so');
compileLibrary('fake_backend.cpp', library);

const part = (name: string, more: object): object => ({
  name,
  version: null,
  file: null,
  refused: [],
  warning: null,
  ...more,
});
const REPORT = JSON.stringify({
  runtime: '13.0',
  architectures: ['sm_80', 'sm_90a'],
  device: {
    name: 'NVIDIA X',
    architecture: 'sm_90',
    totalBytes: 2 ** 34,
    freeBytes: 2 ** 33,
    multiprocessors: 132,
    clockKHz: 1,
    memoryClockKHz: 1,
  },
  overlap: { used: false, reason: 'too old' },
  parts: [
    part('driver', { version: '13.1' }),
    part('cuSPARSELt', { refused: [{ at: '/opt/old.so', reason: 'expected version 0.8.1 or later but it is 0.6.0' }] }),
    part('cuBLASLt', { version: '13.1.1', file: '/opt/libcublasLt.so.13', warning: 'slow today' }),
  ],
});

function doctor(env: Record<string, string>, ...flags: string[]): string {
  const run = spawnSync(process.execPath, [MASKCTL, 'doctor', ...flags], {
    env: { ...process.env, ...env },
    encoding: 'utf8',
  });
  assert.equal(run.status, 0, run.stderr);
  return run.stdout;
}

function examination(env: Record<string, string>): Examination {
  return JSON.parse(doctor(env, '--json')) as Examination;
}

test('without a CUDA backend it says what runs here, and how to build one', () => {
  const env = { MASKSERVE_CUDA_LIBRARY: join(folder, 'nothing.so') };
  const { cpu, memory, cuda, backend, advice } = examination(env);
  assert.ok(cpu.available.includes(cpu.isa) && cpu.threads > 0 && memory.totalBytes > memory.freeBytes);
  assert.deepEqual([cuda.usable, cuda.report, backend], [false, null, 'cpu']);
  assert.match(advice[0] ?? '', /the model runs on the CPU: .*npm run build:cuda/);
  assert.match(
    doctor(env),
    /kernels .*threads[\s\S]*CUDA library {2}none[\s\S]*what to do:\n {2}the model runs on the CPU/,
  );
});

test('a backend that can’t run here is told with its reason, and with what was found all the same', () => {
  const env = { MASKSERVE_CUDA_LIBRARY: library, MASKSERVE_FAKE: 'refused', MASKSERVE_FAKE_REPORT: REPORT };
  const { cuda, backend } = examination(env);
  assert.deepEqual([cuda.reason, backend, cuda.report?.runtime], ['no GPU in this test', 'cpu', '13.0']);
  assert.match(doctor(env), /what to do:\n {2}the model runs on the CPU: no GPU in this test/);
});

test('a backend that works names its GPU, what was refused, what is missing, what warns', () => {
  const env = { MASKSERVE_CUDA_LIBRARY: library, MASKSERVE_FAKE: '', MASKSERVE_FAKE_REPORT: REPORT };
  const text = doctor(env);
  assert.match(text, /GPU +NVIDIA X, sm_90, 16\.0 GiB \(8\.0 GiB free\), 132 multiprocessors/);
  assert.match(text, /overlap +off: too old/);
  assert.match(text, /cuSPARSELt at \/opt\/old\.so: expected version 0\.8\.1 or later/);
  assert.match(text, /backend +cuda/);
  const { advice } = examination(env);
  assert.equal(advice.length, 2);
  assert.match(advice[0] ?? '', /MASKSERVE_CUSPARSELT/);
  assert.equal(advice[1], 'cuBLASLt 13.1.1: slow today');
});

test('maskserve --backend cuda without one ends with one line that says why', () => {
  const env = { ...process.env, MASKSERVE_CUDA_LIBRARY: library, MASKSERVE_FAKE: 'refused' };
  const args = [MASKSERVE, '--backend', 'cuda', '--port', '0', '--store', join(folder, 'store')];
  const run = spawnSync(process.execPath, args, { env, encoding: 'utf8' });
  assert.equal(run.status, 1);
  assert.equal(
    run.stderr.trim(),
    'maskserve: can\'t run with --backend cuda: no GPU in this test; "maskctl doctor" says more',
  );
});
