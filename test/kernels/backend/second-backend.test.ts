/** The door to a second backend: found, refused with a reason, used, and kept apart from host memory. */
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { CudaProbe } from '../../../kernels/index.js';
import { compileLibrary, runWith, scratch } from './libraries.js';

const folder = scratch();
const library = join(folder, 'fake.so');
compileLibrary('fake_backend.cpp', library);

function probe(file: string, mode = ''): CudaProbe {
  const env = { MASKSERVE_CUDA_LIBRARY: file, MASKSERVE_FAKE: mode };
  return JSON.parse(runWith(env, 'console.log(JSON.stringify(native.probeCuda()));')) as CudaProbe;
}

function failure(mode: string, body: string): string {
  const env = { MASKSERVE_CUDA_LIBRARY: library, MASKSERVE_FAKE: mode };
  return runWith(
    env,
    `try { ${body}; console.log('no error'); } catch (e) { console.log(e.name + ': ' + e.message); }`,
  );
}

function onFake(body: string): unknown {
  const env = { MASKSERVE_CUDA_LIBRARY: library, MASKSERVE_FAKE: '' };
  return JSON.parse(runWith(env, `native.useBackend('cuda');\n${body}`)) as unknown;
}

test('a library that is not there is a reason that says how to build it, and the CPU goes on', () => {
  const found = probe(join(folder, 'nothing.so'));
  assert.equal(found.usable, false);
  assert.match(found.reason, /expected the CUDA backend at .*nothing\.so, but there is none; .*npm run build:cuda/);
  assert.equal(found.report, '');
});

test('what is no library, or no backend, is refused with the reason', () => {
  const text = join(folder, 'text.so');
  writeFileSync(text, 'no library at all');
  assert.match(probe(text).reason, /did not load: .*(invalid ELF header|file too short)/);
  mkdirSync(join(folder, 'folder.so'));
  assert.match(probe(join(folder, 'folder.so')).reason, /did not load/);
  const mute = join(folder, 'mute.so');
  compileLibrary('fake_backend.cpp', mute, ['-DWITHOUT_REPORT']);
  assert.match(probe(mute).reason, /lacks one: it is no backend of maskserve/);
});

test('a backend of another version of the op table is refused, whichever way it differs', () => {
  for (const mode of ['old', 'short']) {
    const found = probe(library, mode);
    assert.equal(found.usable, false);
    assert.match(found.reason, /expected version \d+ of the op table in .*npm run build:cuda/);
  }
});

test('a backend that can’t run here gives its own reason, and its report all the same', () => {
  const found = probe(library, 'refused');
  assert.deepEqual(
    [found.usable, found.reason, JSON.parse(found.report)],
    [false, 'no GPU in this test', { runtime: '0.0' }],
  );
  assert.equal(failure('refused', `native.useBackend('cuda')`), 'Error: useBackend: no GPU in this test');
  assert.match(
    failure('stateless', `native.useBackend('cuda')`),
    /RangeError: useBackend: expected room for a thread's state/,
  );
  assert.match(failure('', `native.useBackend('tpu')`), /RangeError: useBackend: expected name to be 'cpu' or 'cuda'/);
});

test('ops run on it, its errors are the op’s, and its memory is counted', () => {
  const sum = onFake(`
    const [x, y] = [native.alloc(8), native.alloc(8)];
    native.write(x, 0, Float32Array.of(1, 2));
    native.write(y, 0, Float32Array.of(10, 20));
    native.add(x, y, 2);
    native.synchronize();
    const out = new Float32Array(2);
    native.read(x, 0, out);
    const { freeBytes, totalBytes } = native.memory();
    native.zero(y);
    console.log(JSON.stringify([[...out], native.info().backend, native.info().device, totalBytes - freeBytes]));`);
  assert.deepEqual(sum, [[11, 22], 'cuda', 'Fake Device', 16]);
  const add = `native.useBackend('cuda'); native.add(native.alloc(4), native.alloc(4), 1)`;
  assert.equal(failure('failing', add), 'RangeError: add: the device fell off the bus');
  const tooMuch = `native.useBackend('cuda'); native.alloc(2 ** 21)`;
  assert.match(failure('', tooMuch), /RangeError: alloc: expected room for 2097152 bytes but Fake Device has none/);
});

test('ops refuse memory that they can’t reach; copy takes it there and back', () => {
  const host = `native.useBackend('cuda'); native.add(native.alloc(4), native.allocHost(4), 1)`;
  assert.match(failure('', host), /TypeError: add: expected y in cuda memory but received a buffer in host memory/);
  const device = `native.useBackend('cuda'); const x = native.view(native.alloc(8), 4, 4); native.useBackend('cpu'); native.add(native.alloc(4), x, 1)`;
  assert.match(failure('', device), /TypeError: add: expected y in host memory but received a buffer in cuda memory/);
  const coded = `native.useBackend('cuda'); native.magnitudeMask({ coder: 10, contexts: 1, groups: 2, cols: 8, weights: native.alloc(16), mask: native.alloc(1) })`;
  assert.match(failure('', coded), /masks and weights in host memory: this device decodes none/);
  const copied = onFake(`
    const [host, x, y, back] = [native.allocHost(8), native.alloc(8), native.alloc(8), native.allocHost(8)];
    native.write(host, 0, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8));
    native.copy(x, 2, host, 0, 6);
    native.copy(y, 0, x, 1, 7);
    native.copy(back, 0, y, 0, 8);
    const out = new Uint8Array(8);
    native.read(back, 0, out);
    console.log(JSON.stringify([...out]));`);
  assert.deepEqual(copied, [0, 1, 2, 3, 4, 5, 6, 0]);
  assert.match(
    failure('', `native.copy(native.alloc(4), 2, native.alloc(4), 0, 4)`),
    /RangeError: copy: expected bytes \[2, \+4\) inside buffer/,
  );
  assert.match(failure('', `const x = native.alloc(4); native.copy(x, 0, x, 1, 2)`), /RangeError: copy: .*overlapping/);
});

test('another thread reads and frees what is the device’s, whatever its own ops run on', () => {
  const seen = onFake(`
    const { Worker } = await import('node:worker_threads');
    const buffer = native.alloc(4);
    native.write(buffer, 0, Float32Array.of(7));
    const index = ${JSON.stringify(new URL('../../../kernels/index.js', import.meta.url).href)};
    const worker = new Worker(\`
      Promise.all([import(\${JSON.stringify(index)}), import('node:worker_threads')]).then(([{ native }, { parentPort }]) => {
        const out = new Float32Array(1);
        native.read(\${buffer}, 0, out);
        native.free(\${buffer});
        parentPort.postMessage([out[0], native.info().backend]);
      });\`, { eval: true });
    const message = await new Promise((resolve) => worker.once('message', resolve));
    await worker.terminate();
    console.log(JSON.stringify([...message, native.memory().totalBytes - native.memory().freeBytes]));`);
  assert.deepEqual(seen, [7, 'cpu', 0]);
});
