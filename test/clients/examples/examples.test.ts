import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { eventually, sampleMask, startRealServer, type RealServer } from '../../server/http/real-server.js';

const FOLDER = fileURLToPath(new URL('../../../clients/examples', import.meta.url));

describe('the examples', () => {
  let server: RealServer;
  let mask: { bytes: Uint8Array; digest: string };
  const ran = new Set<string>();

  before(async () => {
    server = await startRealServer();
    mask = sampleMask(server, 1);
    await server.publish('french', mask.bytes);
  });
  after(() => server.close());

  async function run(name: string, ...args: string[]): Promise<string> {
    ran.add(`${name}.js`);
    const env = { ...process.env, MASKSERVE_URL: server.url };
    const { stdout } = await promisify(execFile)(process.execPath, [join(FOLDER, `${name}.js`), ...args], { env });
    return stdout;
  }

  it('complete', async () => {
    const text = await run('complete', 'french', 'The');
    assert.match(text, /^The[^]+\n\(french, mask [0-9a-f]{64}, \d+ tokens\)\n$/);
    assert.match(text, new RegExp(mask.digest));
    assert.match(await run('complete'), /\(dense, mask none, \d+ tokens\)\n$/);
  });

  it('stream, and stop when there is enough', async () => {
    const text = await run('stream', 'dense', 'The', '60');
    assert.ok(text.length >= 60 && text.length < 120, text);
    await eventually('its sequence is free', () => server.engine.stats().running === 0);
  });

  it('compare tasks', async () => {
    const lines = (await run('compare-tasks', 'The')).trim().split('\n');
    assert.deepEqual(
      lines.map((line) => line.slice(0, 16).trim()),
      ['dense', 'french'],
    );
    assert.equal(new Set(lines.map((line) => line.slice(16))).size, 2);
  });

  it('publish a mask', async () => {
    const file = join(server.folder, 'poems.mask');
    writeFileSync(file, mask.bytes);
    assert.match(await run('publish-mask', 'poems', file), new RegExp(`^poems is ${mask.digest}, 0\\.6\\d+ bits`));
    const other = sampleMask(server, 2);
    writeFileSync(file, other.bytes);
    assert.match(await run('publish-mask', 'poems', file), new RegExp(`^poems is ${other.digest}`));
    await assert.rejects(run('publish-mask'), /usage: publish-mask TASK FILE/);
  });

  it('are all run here', () => {
    const all = readdirSync(FOLDER).filter((name) => name.endsWith('.js') && name !== 'server.js');
    assert.deepEqual([...ran].sort(), all.sort());
  });
});
