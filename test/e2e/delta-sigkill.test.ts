/** SIGKILL while parents and children are published and deleted: no child is ever without its parent, nothing acknowledged is lost. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { contentDigest } from '../../codec/content-digest.js';
import { decodeMaskSet } from '../../codec/decode.js';
import { encodeMaskSet } from '../../codec/encode.js';
import type { MaskSet } from '../../codec/mask-set.js';
import { loadModel } from '../../server/engine/model.js';
import { Random } from '../../server/engine/random.js';
import { randomMask } from '../bench/random-mask.js';
import { TINY } from '../tiny.js';
import { startServerProcess, type ServerProcess } from './server-process.js';

const KILLS = 12;
/** A kill comes a random moment after this many answers of a life at most. */
const MOST_ANSWERS = 6;
const LONGEST_DELAY_MS = 60;

type Task = 'parent' | 'child' | 'grandchild';

const TASKS: readonly Task[] = ['parent', 'child', 'grandchild'];

const folder = mkdtempSync(join(tmpdir(), 'maskserve-delta-sigkill-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const random = new Random(20261124);
const family = sampleFamily();
/** Whether a task is there: true, false, or undefined where a kill came before the answer. */
const present = new Map<Task, boolean | undefined>(TASKS.map((task) => [task, false]));

test(`${KILLS} kills leave every child with what it needs`, async () => {
  let published = 0;
  let refused = 0;
  for (let kill = 0; kill < KILLS; kill++) {
    const server = await start('error');
    try {
      await verify(server);
      const answers = await changeUntilKilled(server);
      published += answers.published;
      refused += answers.refused;
    } finally {
      await server.end('SIGKILL');
    }
  }
  const server = await start('info');
  await verify(server);
  assert.ok(!/can't be served|quarantine/.test(server.output()), server.output());
  assert.deepEqual(await server.end('SIGTERM'), { code: 0, signal: null });
  assert.ok(published >= 3 && refused >= 3, `${published} published, ${refused} refused: the test shows little`);
});

function start(level: string): Promise<ServerProcess> {
  return startServerProcess(['--store', join(folder, 'store'), '--threads', '1', '--log-level', level]);
}

/** Publishes and deletes at random, and kills at a random moment. */
async function changeUntilKilled(server: ServerProcess): Promise<{ published: number; refused: number }> {
  const counts = { published: 0, refused: 0 };
  let untilKill = 1 + Math.floor(random.uniform() * MOST_ANSWERS);
  for (;;) {
    const task = TASKS[Math.floor(random.uniform() * TASKS.length)] as Task;
    const method = random.uniform() < 0.65 ? 'PUT' : 'DELETE';
    const before = present.get(task);
    present.set(task, undefined);
    const body = method === 'PUT' ? { body: family[task].bytes } : {};
    const response = await fetch(`${server.url}/v1/masks/${task}`, { method, ...body }).catch(() => null);
    const text = await response?.text().catch(() => undefined);
    if (!response || text === undefined) return counts;
    if (response.ok) {
      present.set(task, method === 'PUT');
      if (method === 'PUT') counts.published++;
    } else {
      assert.ok([404, 409].includes(response.status), `${method} ${task}: ${response.status} ${text}`);
      present.set(task, before);
      if (response.status === 409) counts.refused++;
    }
    if (--untilKill === 0) setTimeout(() => server.child.kill('SIGKILL'), random.uniform() * LONGEST_DELAY_MS);
  }
}

/** What was acknowledged is there and nothing else, every mask flattens to what was meant, and completes. */
async function verify({ url }: ServerProcess): Promise<void> {
  for (const task of TASKS) {
    const response = await fetch(`${url}/v1/masks/${task}?flatten=1`);
    const known = present.get(task);
    if (known !== undefined)
      assert.equal(response.status, known ? 200 : 404, `${task}: ${await response.clone().text()}`);
    present.set(task, response.ok);
    if (!response.ok) {
      assert.equal(response.status, 404, await response.text());
      continue;
    }
    const set = decodeMaskSet(new Uint8Array(await response.arrayBuffer()));
    assert.equal(contentDigest(set), family[task].content, task);
    const completion = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', 'X-Task': task },
      body: JSON.stringify({ prompt: 'a', max_tokens: 1 }),
    });
    assert.equal(completion.status, 200, await completion.text());
  }
}

function sampleFamily(): Record<Task, { readonly bytes: Uint8Array; readonly content: string }> {
  const model = loadModel(TINY, { threads: 1 });
  try {
    const parent = randomMask(model.info, 1);
    const child = changed(parent);
    const grandchild = changed(child);
    const member = (set: MaskSet, from?: MaskSet): { bytes: Uint8Array; content: string } => ({
      bytes: encodeMaskSet(set, from ? { context: { parent: from }, coder: 'patch' } : {}),
      content: contentDigest(set),
    });
    return { parent: member(parent), child: member(child, parent), grandchild: member(grandchild, child) };
  } finally {
    model.dispose();
  }
}

function changed(parent: MaskSet): MaskSet {
  const masks = parent.masks.map((mask) => ({
    ...mask,
    symbols: mask.symbols.map((symbol) => (random.uniform() < 0.01 ? (symbol + 1) % 6 : symbol)),
  }));
  return { ...parent, masks };
}
