/** SIGKILL during uploads, 50 times at random moments: no torn mask, no lost published version, a server that starts. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { encodeMaskSet } from '../../codec/encode.js';
import { Random } from '../../server/engine/random.js';
import { loadModel } from '../../server/engine/model.js';
import { randomMask } from '../bench/random-mask.js';
import { TINY } from '../tiny.js';
import { startServerProcess, type ServerProcess } from './server-process.js';

const KILLS = 50;
const UPLOADERS = 2;
/** A kill comes a random moment after none, one or two uploads of a life were acknowledged. */
const MOST_ACKNOWLEDGED = 3;
const LONGEST_DELAY_MS = 60;

const folder = mkdtempSync(join(tmpdir(), 'maskserve-sigkill-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const random = new Random(20261124);
const containers = sampleContainers(8);
/** What the server said was published, by task, in order. */
const acknowledged = new Map<string, string[]>();

test(`${KILLS} kills during uploads lose nothing that was acknowledged and tear nothing`, async () => {
  let interrupted = 0;
  for (let kill = 0; kill < KILLS; kill++) {
    const server = await startServerProcess([
      '--store',
      join(folder, 'store'),
      '--threads',
      '1',
      '--log-level',
      'error',
    ]);
    try {
      await verify(server);
      interrupted += await uploadUntilKilled(server);
    } finally {
      await server.end('SIGKILL');
    }
  }
  const server = await startServerProcess(['--store', join(folder, 'store'), '--threads', '1']);
  await verify(server);
  assert.deepEqual(await server.end('SIGTERM'), { code: 0, signal: null });
  const published = [...acknowledged.values()].flat().length;
  assert.ok(published >= KILLS / 2, `only ${published} uploads were acknowledged: the kills come too early`);
  assert.ok(interrupted >= KILLS / 2, `only ${interrupted} uploads were interrupted: the kills come too late`);
});

/** Uploads without pause and kills at a random moment. Returns how many uploads the kill cut off. */
async function uploadUntilKilled(server: ServerProcess): Promise<number> {
  let cut = 0;
  let untilKill = Math.floor(random.uniform() * MOST_ACKNOWLEDGED);
  const killSoon = (): NodeJS.Timeout =>
    setTimeout(() => server.child.kill('SIGKILL'), random.uniform() * LONGEST_DELAY_MS);
  if (untilKill === 0) killSoon();
  const uploader = async (index: number): Promise<void> => {
    for (;;) {
      const container = containers[Math.floor(random.uniform() * containers.length)] as Uint8Array;
      const task = `task-${index}`;
      const response = await fetch(`${server.url}/v1/masks/${task}`, { method: 'PUT', body: container }).catch(
        () => null,
      );
      const body = response && (await response.json().catch(() => null));
      if (!response || !body) {
        cut++;
        return;
      }
      assert.ok(response.ok, `${response.status}: ${JSON.stringify(body)}`);
      const { digest } = body as { digest: string };
      assert.equal(digest, digestOf(container));
      acknowledged.set(task, [...(acknowledged.get(task) ?? []), digest]);
      if (--untilKill === 0) killSoon();
    }
  };
  await Promise.all(Array.from({ length: UPLOADERS }, (_, index) => uploader(index)));
  return cut;
}

/** Every acknowledged version is there, the current one is whole, and a completion through it works. */
async function verify({ url }: ServerProcess): Promise<void> {
  for (const [task, digests] of acknowledged) {
    const { data: versions } = (await getJson(`${url}/v1/masks/${task}/versions`)) as { data: { digest: string }[] };
    const known = new Set(versions.map((version) => version.digest));
    for (const digest of digests) assert.ok(known.has(digest), `lost version ${digest} of ${task}`);
    const current = await fetch(`${url}/v1/masks/${task}`);
    const bytes = new Uint8Array(await current.arrayBuffer());
    assert.ok(
      containers.some((container) => Buffer.from(container).equals(bytes)),
      `${task} is torn`,
    );
    const completion = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', 'X-Task': task },
      body: JSON.stringify({ prompt: 'a', max_tokens: 1 }),
    });
    assert.equal(completion.headers.get('x-mask-digest'), digestOf(bytes));
    await completion.arrayBuffer();
  }
}

async function getJson(url: string): Promise<unknown> {
  const response = await fetch(url);
  const body: unknown = await response.json();
  assert.equal(response.status, 200, JSON.stringify(body));
  return body;
}

function sampleContainers(count: number): Uint8Array[] {
  const model = loadModel(TINY, { threads: 1 });
  try {
    return Array.from({ length: count }, (_, seed) => encodeMaskSet(randomMask(model.info, seed)));
  } finally {
    model.dispose();
  }
}

function digestOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
