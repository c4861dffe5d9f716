/** What stands in for a GPU in tests finds what compute-sanitizer would, and what only a GPU would show: each fault planted in a program of its own (checker/faults.cpp). */
import { spawnSync, type SpawnSyncReturns } from 'node:child_process';
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { make, noCompiler as skip } from './on-host.js';

const faults = fileURLToPath(new URL('../../../../kernels/build/cuda-host/faults', import.meta.url));

function run(name: string, how: 'right' | 'faulty'): SpawnSyncReturns<string> {
  return spawnSync(faults, [name, how], { encoding: 'utf8' });
}

const kernelFaults = {
  barrier: ['shared memory read without a barrier', /reads 4 bytes at 0x\w+: its block has not written there/],
  reuse: [
    'shared memory written again before all have read it',
    /reads 4 bytes at 0x\w+: nothing orders it behind a write of thread \d+ of its block/,
  ],
  lanes: [
    'shared memory exchanged in a warp that only shuffles',
    /reads 4 bytes at 0x\w+: nothing orders it behind a write of thread 31 of its block/,
  ],
  blocks: [
    'two blocks that write to one place',
    /nothing orders it behind another value written by thread 0, 1 blocks before/,
  ],
  nibbles: [
    'two threads that write to one byte',
    /thread \(1, 0, 0\) writes 1 bytes.*another value written by thread 0/,
  ],
  flag: ['different values written to one place', /another value written by thread 0 of its block/],
  atomic: ['an atomic beside a plain access', /changes 4 bytes at 0x\w+: nothing orders it behind a write of thread 0/],
  unwritten: ['shared memory that nobody has written', /thread \(7, 0, 0\) reads .* its block has not written there/],
  beyond: ['a read beyond an allocation', /thread \(128, 0, 0\) reads 4 bytes at 0x\w+: it is not the GPU's memory/],
  host: ["a kernel given the host's memory", /reads 4 bytes at 0x\w+: it is not the GPU's memory/],
  overlapped: [
    'a kernel that reads before the one in front of it is done',
    /reads 4 bytes at 0x\w+: it has not awaited the kernel in front/,
  ],
  returned: ['memory that was given back', /reads 4 bytes at 0x\w+: it is not the GPU's memory/],
} as const;

if (skip !== false) {
  test('the checker of the CUDA kernels on the host', { skip }, () => undefined);
} else {
  const built = make('cuda-host-faults');
  test('the faults compile', () => assert.equal(built.status, 0, built.stderr));

  for (const [name, [what, line]] of Object.entries(kernelFaults)) {
    test(`${what} ends the process with who, what and where`, () => {
      const right = run(name, 'right');
      assert.equal(right.status, 0, right.stderr);
      const { signal, stderr } = run(name, 'faulty');
      assert.equal(signal, 'SIGABRT');
      assert.match(stderr, line);
      assert.match(stderr, /checker\/faults\.cpp:\d+/);
    });
  }

  for (const [name, what, line] of [
    ['misaligned', 'a vector access that is not aligned', /faults\.cpp:\d+: 0x\w+ is not aligned to its type/],
    ['grid', "a grid beyond CUDA's limits", /a grid of 1 x 1 x 65536 blocks .* is beyond a GPU's limits/],
    ['copied', 'a copy beyond an allocation', /copies to 516 bytes at 0x\w+, which it has not given out/],
    ['touched', "a host that touches the GPU's memory", /the host touches the GPU's memory/],
    ['copies', 'a copy to shared memory that is not waited for', /thread \(0, 0, 0\): ends before its copies/],
    ['streams', 'a stream that did not wait for another', /the copy came before what it copies/],
  ] as const) {
    test(`${what} fails`, () => {
      const right = run(name, 'right');
      assert.equal(right.status, 0, right.stderr);
      const { status, stderr } = run(name, 'faulty');
      assert.notEqual(status, 0);
      assert.match(stderr, line);
    });
  }
}
