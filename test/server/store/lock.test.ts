import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, rm, stat, unlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { lockStore, type LockOptions, type StoreLock } from '../../../server/store/lock.js';
import { temporaryFolder } from './temporary-store.js';

let folder = '';
let lines: string[] = [];
let lost: string[] = [];
const held: StoreLock[] = [];

beforeEach(async () => {
  folder = await temporaryFolder();
  lines = [];
  lost = [];
});

afterEach(async () => {
  for (const lock of held.splice(0)) await lock.release();
  await rm(folder, { recursive: true });
});

async function lock(options: Partial<LockOptions> = {}): Promise<StoreLock> {
  const taken = await lockStore(folder, {
    log: (line) => lines.push(line),
    onLost: (reason) => lost.push(reason),
    ...options,
  });
  held.push(taken);
  return taken;
}

/** Leaves the claim of somebody else: this process's own with some fields changed. Returns its file. */
async function leaveLock(changes: { place?: string; pid?: number; started?: string }): Promise<string> {
  const own = await lock();
  const [name = ''] = await readdir(folder);
  await own.release();
  const [, place = '', pid = '', started = ''] = name.split('.');
  const file = join(folder, `lock.${changes.place ?? place}.${changes.pid ?? pid}.${changes.started ?? started}.00`);
  await writeFile(file, 'there\n');
  return file;
}

/** The pid of a process that has ended. */
async function deadPid(): Promise<number> {
  const child = spawn(process.execPath, ['-e', '']);
  await once(child, 'close');
  return child.pid!;
}

test('a lock is taken once and can be taken again after its release', async () => {
  const first = await lock();
  await assert.rejects(lock(), new RegExp(`in use by pid ${process.pid} on `));
  await first.release();
  assert.deepEqual(await readdir(folder), []);
  await lock();
  assert.equal((await readdir(folder)).length, 1, 'nothing else is left in the folder');
});

test('the lock of a process that has ended is taken over at once', async () => {
  await leaveLock({ pid: await deadPid() });
  await lock({ watchMs: 1e9 });
  assert.match(lines.join('\n'), /taking over the store from pid \d+, which ended without closing it/);
  assert.equal((await readdir(folder)).length, 1);
});

test('a pid that belongs to another process by now does not hold the lock', async () => {
  await leaveLock({ started: '1' });
  await lock({ watchMs: 1e9 });
});

test('a lock from another host, boot or container is respected while it is touched', async () => {
  const file = await leaveLock({ place: 'e15e', pid: 7 });
  const toucher = setInterval(() => void utimes(file, new Date(), new Date()), 20);
  try {
    await assert.rejects(lock({ watchMs: 300 }), /in use by pid 7 on there/);
  } finally {
    clearInterval(toucher);
  }
  assert.match(lines.join('\n'), /last held by pid 7 on there: waiting 0.3 s/);
});

test('a lock from another host that nobody touches is taken over', async () => {
  await leaveLock({ place: 'e15e', pid: 7 });
  await lock({ watchMs: 100 });
  assert.equal((await readdir(folder)).length, 1);
});

test('the holder touches its lock, so that others elsewhere see it alive', async () => {
  await lock({ touchMs: 20 });
  const file = join(folder, (await readdir(folder))[0] ?? '');
  await utimes(file, new Date(0), new Date(0));
  await sleep(200);
  assert.ok((await stat(file)).mtimeMs > Date.now() - 60_000);
});

test('a holder whose lock is deleted hears of it, once; one that released it does not', async () => {
  const first = await lock({ touchMs: 20 });
  await first.release();
  await lock({ touchMs: 20 });
  await unlink(join(folder, (await readdir(folder))[0] ?? ''));
  await sleep(200);
  assert.equal(lost.length, 1);
  assert.match(lost[0] ?? '', /its lock .* was deleted/);
});

test('of many that find a stale lock at once at most one takes it, and somebody does in the end', async () => {
  for (let round = 0; round < 20; round++) {
    await leaveLock({ pid: 2 ** 22 + round });
    let takers: PromiseSettledResult<StoreLock>[] = [];
    while (takers.length === 0) {
      const outcomes = await Promise.allSettled(Array.from({ length: 5 }, () => lock()));
      takers = outcomes.filter(({ status }) => status === 'fulfilled');
    }
    assert.equal(takers.length, 1);
    assert.equal((await readdir(folder)).length, 1);
    for (const taken of held.splice(0)) await taken.release();
  }
  assert.deepEqual(lost, []);
});
