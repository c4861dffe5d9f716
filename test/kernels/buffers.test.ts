import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, beforeEach, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { native, type Handle } from '../../kernels/index.js';
import type { Job } from './buffers.worker.js';
import { floats, random } from './numbers.js';

const folder = mkdtempSync(join(tmpdir(), 'maskserve-buffers-'));
after(() => rmSync(folder, { recursive: true }));

// Every test gives back what it took: nothing leaks, whatever went wrong on the way.
let before = native.usage();
beforeEach(() => (before = native.usage()));
afterEach(() => assert.deepEqual(native.usage(), before, 'all buffers are freed'));

function bytesOf(buffer: Handle): Uint8Array {
  const out = new Uint8Array(native.byteLength(buffer));
  native.read(buffer, 0, out);
  return out;
}

function file(name: string, content: Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

function work(job: Job): { messages: unknown[]; done: Promise<unknown[]>; next: Promise<unknown> } {
  const worker = new Worker(new URL('./buffers.worker.js', import.meta.url), { workerData: job });
  const messages: unknown[] = [];
  const next = new Promise((resolve) => worker.once('message', resolve));
  const done = new Promise<unknown[]>((resolve, reject) => {
    worker.on('message', (message) => messages.push(message));
    worker.once('error', reject);
    worker.once('exit', () => resolve(messages));
  });
  return { messages, done, next };
}

test('a new buffer is zeroed, also where memory is used again', () => {
  for (const bytes of [0, 1, 63, 64, 65, 4096, 262143, 262144, 300001, 5 << 20]) {
    for (let i = 0; i < 3; i++) {
      const buffer = native.alloc(bytes);
      assert.equal(native.byteLength(buffer), bytes);
      assert.ok(
        bytesOf(buffer).every((b) => b === 0),
        `${bytes} bytes`,
      );
      native.write(buffer, 0, new Uint8Array(bytes).fill(255));
      native.free(buffer);
    }
  }
});

test('usage counts live buffers, owned and mapped bytes exactly', () => {
  const path = file('usage', new Uint8Array(100));
  const at = (buffers: number, bytes: number, mappedBytes: number): void => {
    const now = native.usage();
    assert.deepEqual(
      [now.buffers - before.buffers, now.bytes - before.bytes, now.mappedBytes - before.mappedBytes],
      [buffers, bytes, mappedBytes],
    );
  };
  const owned = native.alloc(1000);
  at(1, 1000, 0);
  const mapped = native.mapFile(path, 10, 50);
  at(2, 1000, 50);
  const view = native.view(owned, 100, 200);
  at(3, 1000, 50);
  native.free(owned);
  at(3, 1000, 50); // the view keeps it
  native.free(view);
  at(1, 0, 50);
  native.free(mapped);
  at(0, 0, 0);
});

test('a view is a window on its base, through other views too, and keeps it alive', () => {
  const base = native.alloc(32);
  native.write(
    base,
    0,
    Uint8Array.from({ length: 32 }, (_, i) => i),
  );
  const view = native.view(base, 8, 16);
  const inner = native.view(view, 4, 4);
  native.free(view);
  assert.throws(() => native.byteLength(view), /view|buffer/);
  native.write(base, 13, Uint8Array.of(99));
  native.free(base);
  assert.throws(() => native.byteLength(base), /live buffer/);
  assert.deepEqual([...bytesOf(inner)], [12, 99, 14, 15]);
  native.write(inner, 0, Uint8Array.of(1));
  assert.equal(bytesOf(inner)[0], 1);
  native.free(inner);
});

test('a view must lie inside its base', () => {
  const base = native.alloc(16);
  for (const [offset, bytes] of [
    [0, 17],
    [16, 1],
    [17, 0],
    [8, 9],
    [2 ** 52, 2 ** 52],
    [Number.MAX_SAFE_INTEGER, 1],
  ] as const) {
    assert.throws(() => native.view(base, offset, bytes), { name: 'RangeError', message: /^view: .*inside base/ });
  }
  native.free(native.view(base, 16, 0));
  native.free(base);
});

test('a freed handle stays refused when its place is used again', () => {
  const stale: Handle[] = [];
  for (let i = 0; i < 1000; i++) {
    const buffer = native.alloc(8);
    native.free(buffer);
    stale.push(buffer);
  }
  const live = native.alloc(8);
  assert.equal(new Set([...stale, live]).size, 1001);
  for (const handle of stale) {
    assert.throws(() => native.byteLength(handle), {
      name: 'TypeError',
      message: /live buffer.*never allocated, or freed/,
    });
    assert.throws(() => native.free(handle), { name: 'TypeError', message: /^free: .*live buffer/ });
  }
  native.free(live);
});

test('tens of thousands of buffers live at once', () => {
  const buffers = Array.from({ length: 20000 }, (_, i) => {
    const buffer = native.alloc(4);
    native.write(buffer, 0, Int32Array.of(i));
    return buffer;
  });
  assert.equal(new Set(buffers).size, buffers.length);
  const out = new Int32Array(1);
  buffers.forEach((buffer, i) => {
    native.read(buffer, 0, out);
    assert.equal(out[0], i);
    native.free(buffer);
  });
});

test('memory goes back to the system: a hundred times 64 MiB, used and freed, stay within 256 MiB', () => {
  const start = process.memoryUsage.rss();
  for (let i = 0; i < 100; i++) {
    const buffer = native.alloc(64 << 20);
    native.zero(buffer);
    native.free(buffer);
  }
  assert.ok(process.memoryUsage.rss() - start < 256 << 20);
});

test('absurd sizes are refused, never an abort', () => {
  for (const bytes of [1e15, 2 ** 50, Number.MAX_SAFE_INTEGER]) {
    assert.throws(() => native.alloc(bytes), { name: 'RangeError', message: /^alloc: expected bytes of at most/ });
  }
  for (const bytes of [-1, 0.5, NaN, Infinity, 2 ** 64]) {
    assert.throws(() => native.alloc(bytes), {
      name: 'RangeError',
      message: /^alloc: expected bytes to be an integer/,
    });
  }
});

test('read and write copy any typed array, part of one, and DataViews', () => {
  const buffer = native.alloc(64);
  const source = Float64Array.of(1.5, -2, 3, 4);
  native.write(buffer, 8, source.subarray(1, 3));
  const words = new BigUint64Array(4);
  native.read(buffer, 0, words);
  assert.deepEqual([...words], [0n, 0xc000000000000000n, 0x4008000000000000n, 0n]);
  const bytes = new ArrayBuffer(20);
  native.read(buffer, 8, new DataView(bytes, 4, 16));
  assert.equal(new DataView(bytes, 4).getFloat64(0, true), -2);
  assert.equal(new Uint8Array(bytes)[3], 0);
  native.write(buffer, 0, new Uint8Array(0));
  native.free(buffer);
});

test('readThrough reads every whole pair of words, whatever is left over, on any number of threads', () => {
  const next = random(3);
  for (const words of [2, 30, 64, 1_000_002]) {
    const content = Uint32Array.from({ length: words }, () => next() * 2 ** 32);
    const buffer = native.alloc(content.byteLength + 7);
    native.write(buffer, 0, content);
    native.write(buffer, content.byteLength, new Uint8Array(7).fill(255));
    for (const threads of [1, 3, 0]) {
      native.setThreads(threads);
      assert.equal(native.readThrough(buffer), content.reduce((a, b) => a ^ b, 0) >>> 0, `${words} words`);
    }
    native.free(buffer);
  }
});

test('read, write and zero refuse what lies outside, and what is no array', () => {
  const buffer = native.alloc(8);
  assert.throws(
    () => native.read(buffer, 1, new Uint8Array(8)),
    /^RangeError: read: expected bytes \[1, \+8\) inside buffer/,
  );
  assert.throws(() => native.write(buffer, 9, new Uint8Array(0)), /^RangeError: write: /);
  assert.throws(() => native.write(buffer, -1, new Uint8Array(1)), /^RangeError: write: expected byteOffset/);
  const wrong = 'bytes' as unknown as ArrayBufferView;
  assert.throws(() => native.read(buffer, 0, wrong), /^TypeError: read: expected into to be a typed array or DataView/);
  native.free(buffer);
});

test('a file is mapped from any offset, read-only, and its name may go', () => {
  const content = Uint8Array.from({ length: 10000 }, (_, i) => (i * 7) & 255);
  const path = file('mapped', content);
  for (const [offset, bytes] of [
    [0, 10000],
    [1, 9999],
    [4095, 2],
    [4096, 100],
    [5000, 0],
    [10000, 0],
  ] as const) {
    const buffer = native.mapFile(path, offset, bytes);
    assert.deepEqual(bytesOf(buffer), content.subarray(offset, offset + bytes));
    native.free(buffer);
  }
  const kept = native.mapFile(path, 100, 50);
  const view = native.view(kept, 10, 10);
  rmSync(path);
  native.free(kept);
  assert.deepEqual(bytesOf(view), content.subarray(110, 120));
  const refusal = { name: 'TypeError', message: /read-only mapping/ };
  assert.throws(() => native.write(view, 0, Uint8Array.of(1)), refusal);
  assert.throws(() => native.zero(view), refusal);
  native.free(view);
});

test('a file that can’t be mapped is refused with the system’s reason', () => {
  const path = file('short', new Uint8Array(10));
  assert.throws(
    () => native.mapFile(join(folder, 'nothing'), 0, 1),
    /^Error: mapFile: cannot map .*nothing: No such file/,
  );
  assert.throws(() => native.mapFile(folder, 0, 1), /^Error: mapFile: cannot map .*: not a regular file/);
  assert.throws(() => native.mapFile('/dev/zero', 0, 1), /not a regular file/);
  for (const [offset, bytes] of [
    [0, 11],
    [5, 6],
    [11, 0],
    [2 ** 52, 2 ** 52],
  ] as const) {
    assert.throws(
      () => native.mapFile(path, offset, bytes),
      /^RangeError: mapFile: expected bytes .* inside .*short but it has 10/,
    );
  }
  assert.throws(() => native.mapFile(`${path}\0`, 0, 1), /NUL/);
  assert.throws(
    () => native.mapFile(5 as unknown as string, 0, 1),
    /^TypeError: mapFile: expected path to be a string/,
  );
});

test('a handle is used and freed by another thread', async () => {
  const values = floats(random(1), 1000);
  const buffer = native.alloc(4000);
  native.write(buffer, 0, values);
  const view = native.view(buffer, 0, 4000);
  assert.deepEqual(await work({ kind: 'double', buffer, n: 1000 }).done, [native.info().isa]);
  assert.throws(() => native.byteLength(buffer), /live buffer/);
  const out = new Float32Array(1000);
  native.read(view, 0, out);
  assert.deepEqual(
    out,
    values.map((v) => 2 * v),
  );
  native.free(view);
});

test('a buffer outlives the thread that made it, and threads have settings of their own', async () => {
  const threads = native.info().threads;
  const [buffer] = (await work({ kind: 'allocate', bytes: 3 }).done) as [Handle];
  assert.deepEqual([...bytesOf(buffer)], [1, 2, 3]);
  native.free(buffer);
  assert.deepEqual(await work({ kind: 'settings' }).done, [3]);
  assert.equal(native.info().threads, threads);
});

test('freeing a buffer while another thread computes with it is safe: the handle is refused afterwards', async () => {
  for (let round = 0; round < 3; round++) {
    const n = 100000;
    const buffer = native.alloc(n * 4);
    const { next, done } = work({ kind: 'churn', buffer, n, rounds: 1e6 });
    await next;
    native.free(buffer);
    const result = (await done).at(-1) as { used: number; refusal: string };
    assert.ok(result.used > 10);
    assert.match(result.refusal, /TypeError: add: expected y to name a live buffer/);
  }
});
