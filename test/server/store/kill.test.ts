/** SIGKILL at random moments, and two processes on one store. */
import assert from 'node:assert/strict';
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Digest } from '../../../codec/mask-set.js';
import { openDiskRegistry } from '../../../server/store/disk-registry.js';
import { bytesOf, publish } from './registry-calls.js';
import { loopContainer, loopModel } from './loop-masks.js';
import { BASE, digestOf, randomFrom } from './sample-masks.js';
import { filesIn, temporaryFolder } from './temporary-store.js';

const SCRIPT = fileURLToPath(new URL('./publish-loop.js', import.meta.url));
const KILLS = 50;

interface Publisher {
  readonly child: ChildProcessWithoutNullStreams;
  /** Whole lines so far. */
  readonly lines: () => string[];
  /** Resolves when so many lines with this start have been printed. */
  readonly printed: (start: string, times: number) => Promise<void>;
  /** SIGKILL; resolves when the process is gone and all that it printed is here. */
  readonly kill: () => Promise<void>;
}

function startPublisher(directory: string, seed: number): Publisher {
  const child = spawn(process.execPath, [SCRIPT, directory, String(seed)]);
  let output = '';
  let errors = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()));
  const closed = once(child, 'close');
  const lines = (): string[] => output.split('\n').slice(0, -1);
  return {
    child,
    lines,
    printed: async (start, times) => {
      while (lines().filter((line) => line.startsWith(start)).length < times) {
        assert.equal(child.exitCode, null, `the publisher ended early: ${errors}`);
        await Promise.race([once(child.stdout, 'data'), closed]);
      }
    },
    kill: async () => {
      child.kill('SIGKILL');
      await closed;
      assert.equal(errors, '');
    },
  };
}

test(`${KILLS} kills at random moments lose nothing acknowledged, tear nothing and leave a store that opens`, async () => {
  const folder = await temporaryFolder();
  const random = randomFrom(20261124);
  /** Acknowledged digests and the seeds that their bytes come from. */
  const acknowledged = new Map<Digest, number>();
  const served = new Map<string, Digest>();
  let interrupted = 0;
  for (let cycle = 0; cycle < KILLS; cycle++) {
    const publisher = startPublisher(folder, cycle);
    // Every fourth process is killed while it starts, which is when it recovers from the kill before; the others while they publish.
    if (cycle % 4 !== 3) await publisher.printed('try', 1);
    if (cycle % 4 < 2) await publisher.printed('ack', 1 + (cycle % 3));
    await new Promise((resolve) => setTimeout(resolve, random() * (cycle % 4 === 3 ? 150 : 30)));
    await publisher.kill();

    let attempt: { task: string; digest: Digest } | undefined;
    for (const line of publisher.lines()) {
      const [verb, task = '', digest = '', seed] = line.split(' ');
      if (verb === 'try') attempt = { task, digest };
      if (verb !== 'ack') continue;
      attempt = undefined;
      acknowledged.set(digest, Number(seed));
      served.set(task, digest);
    }
    if (attempt) interrupted++;

    const registry = await openDiskRegistry({ directory: folder, model: loopModel(), versionLimit: 1e6 });
    const records = await registry.list();
    for (const { task, digest } of records) {
      if (digest !== attempt?.digest || task !== attempt.task)
        assert.equal(digest, served.get(task), `cycle ${cycle}: ${task}`);
      served.set(task, digest);
    }
    const versions = records.flatMap((record) => record.versions.map((version) => version.digest));
    for (const digest of versions) assert.equal(digestOf(await bytesOf(registry, digest)), digest);
    for (const digest of acknowledged.keys()) assert.ok(versions.includes(digest), `cycle ${cycle}: lost ${digest}`);
    assert.equal(registry.quarantined().size, 0);
    const files = await filesIn(join(folder, BASE), ['tmp', 'blobs', 'quarantine']);
    assert.deepEqual(files, [...new Set(versions)].map((digest) => join('blobs', `${digest}.mask`)).sort());
    await registry.close();
  }
  assert.ok(acknowledged.size >= KILLS, `only ${acknowledged.size} publishes were acknowledged`);
  assert.ok(interrupted >= KILLS / 5, `only ${interrupted} kills landed inside a publish`);
  const registry = await openDiskRegistry({ directory: folder, model: loopModel() });
  for (const [digest, seed] of acknowledged) {
    assert.deepEqual(await bytesOf(registry, digest), Buffer.from(loopContainer(seed)));
  }
  await registry.close();
  await rm(folder, { recursive: true });
});

test('a store that another process has open is refused with its pid, until that process is killed', async () => {
  const folder = await temporaryFolder();
  const publisher = startPublisher(folder, 1);
  await publisher.printed('ack', 1);
  const options = { directory: folder, model: loopModel() };
  await assert.rejects(
    openDiskRegistry(options),
    new RegExp(
      `is in use by pid ${publisher.child.pid} on .*: stop that server or choose another directory with --store`,
    ),
  );
  await publisher.kill();
  const registry = await openDiskRegistry(options);
  await publish(registry, 'mine', loopContainer(0));
  await registry.close();
  await rm(folder, { recursive: true });
});
