/** The CUDA backend goes through nvcc: every file of the runtime, and one kernel for one architecture. `npm run build:cuda` compiles all for all. */
import { spawnSync, type SpawnSyncReturns } from 'node:child_process';
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const kernels = fileURLToPath(new URL('../../../../kernels/', import.meta.url));
const nvcc = process.env['NVCC'] ?? ['nvcc', '/usr/local/cuda/bin/nvcc'].find(runs);
const skip =
  nvcc === undefined && 'expected nvcc on the PATH or in /usr/local/cuda/bin, but there is none; or name it in NVCC';
const folder = mkdtempSync(join(tmpdir(), 'maskserve-nvcc-'));
after(() => rmSync(folder, { recursive: true }));

const WARNINGS_ARE_ERRORS = ['-std=c++17', '-Xcompiler', '-fPIC,-Wall,-Wextra', '-Werror', 'all-warnings'];

function runs(command: string): boolean {
  return spawnSync(command, ['--version']).status === 0;
}

function compile(...args: string[]): SpawnSyncReturns<string> {
  return spawnSync(nvcc ?? '', [...WARNINGS_ARE_ERRORS, ...args], { cwd: kernels, encoding: 'utf8' });
}

test('the runtime compiles without a warning', { skip }, () => {
  const sources = readdirSync(join(kernels, 'cuda')).filter((name) => name.endsWith('.cpp'));
  assert.ok(sources.length > 10);
  const paths = sources.map((name) => `cuda/${name}`);
  const { status, stderr } = compile('-O0', '-DMASKSERVE_ARCHITECTURES="sm_80"', '-c', '-odir', folder, ...paths);
  assert.equal(status, 0, stderr);
  for (const name of sources) assert.ok(existsSync(join(folder, name.replace('.cpp', '.o'))), name);
});

test('a kernel compiles to machine code for one architecture without a warning', { skip }, () => {
  const { status, stderr } = compile(
    '-O1',
    '-cubin',
    '-arch=sm_80',
    '-o',
    join(folder, 'mma24.cubin'),
    'cuda/mma24.cu',
  );
  assert.equal(status, 0, stderr);
});

test('without nvcc, npm run build:cuda says what was looked for and does not fail', () => {
  const { status, stdout, stderr } = spawnSync('make', ['--silent', 'cuda', 'NVCC='], {
    cwd: kernels,
    encoding: 'utf8',
  });
  assert.equal(status, 0, stderr);
  assert.match(stdout, /no CUDA backend built: expected nvcc on the PATH.*NVCC=\/path\/to\/nvcc/);
});
