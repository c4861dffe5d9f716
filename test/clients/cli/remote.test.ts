import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { encodeMaskSet } from '../../../codec/encode.js';
import type { Mask, MaskVersions } from '../../../clients/sdk/index.js';
import { finished, maskctl, start, type Finished, type RunOptions } from './maskctl.js';
import { TINY } from '../../tiny.js';
import { randomTinyMask, serveTiny, type Served } from './served.js';

const TEXT = fileURLToPath(new URL('../../../../node_modules/commander/Readme.md', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'maskctl-remote-'));
const first = join(folder, 'first.mask');
const second = join(folder, 'second.mask');
const [one, two] = [1, 2].map((seed) => encodeMaskSet(randomTinyMask(seed))) as [Uint8Array, Uint8Array];
const digests = { first: sha256(one), second: sha256(two) };
let server: Served;

before(async () => {
  writeFileSync(first, one);
  writeFileSync(second, two);
  server = await serveTiny();
});
after(async () => {
  await server.close();
  rmSync(folder, { recursive: true });
});

function sha256(bytes: Uint8Array | string): string {
  return createHash('sha256').update(bytes).digest('hex');
}

const remote = (args: readonly string[], options: RunOptions = {}): Promise<Finished> =>
  maskctl(args, { ...options, env: { MASKSERVE_URL: server.url, ...options.env } });

async function succeed(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await remote(args);
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' }, args.join(' '));
  return stdout;
}

async function fail(args: readonly string[], message: RegExp, exit = 1, options: RunOptions = {}): Promise<void> {
  const { code, stdout, stderr } = await remote(args, options);
  assert.match(stderr, message);
  assert.equal(stderr.trimEnd().split('\n').length, 1, stderr);
  assert.deepEqual({ code, stdout }, { code: exit, stdout: '' }, args.join(' '));
}

test('a mask is published, listed, replaced, rolled back, pulled and removed', async () => {
  assert.match(
    await succeed('push', 'life', first),
    /^life: a new task, digest [0-9a-f]{12}, .*\ntry it:\n {2}curl http/,
  );
  assert.match(await succeed('push', 'life', second), /^life: version 2, /);
  const tasks = JSON.parse(await succeed('tasks', '--json')) as (Mask & { tier: string })[];
  const life = tasks.find(({ task }) => task === 'life');
  assert.deepEqual([life?.digest, life?.tier, life?.versions], [digests.second, 'cold', 2]);
  assert.match(await succeed('tasks'), new RegExp(`^life +${digests.second.slice(0, 12)} +- +[\\d,]+ +cold +20`, 'm'));

  const versions = JSON.parse(await succeed('versions', 'life', '--json')) as MaskVersions;
  assert.deepEqual(
    versions.data.map(({ digest, current }) => [digest, current]),
    [
      [digests.second, true],
      [digests.first, false],
    ],
  );
  assert.match(await succeed('rollback', 'life'), new RegExp(`^life: now ${digests.first.slice(0, 12)}`));
  assert.match(await succeed('versions', 'life'), new RegExp(`^\\* +${digests.first} `, 'm'));
  assert.match(
    await succeed('rollback', 'life', '--to', digests.second.slice(0, 8)),
    new RegExp(digests.second.slice(0, 12)),
  );

  const current = join(folder, 'current.mask');
  await succeed('pull', 'life', '-o', current);
  assert.deepEqual(readFileSync(current), readFileSync(second));
  await succeed('pull', 'life', '--version', `sha256:${digests.first}`, '--out', current);
  assert.deepEqual(readFileSync(current), readFileSync(first));

  assert.deepEqual(JSON.parse(await succeed('rm', 'life', '--json')), { task: 'life', removed: true });
  await fail(['pull', 'life', '-o', current], /^maskctl: there is no task "life"; "maskctl tasks" lists them\n$/);
  assert.deepEqual(readFileSync(current), readFileSync(first));
});

test('pull names the file after the task, or writes to stdout', async () => {
  await succeed('push', 'stdout', first);
  const { code } = await remote(['pull', 'stdout'], { cwd: folder });
  assert.equal(code, 0);
  assert.deepEqual(readFileSync(join(folder, 'stdout.mask')), readFileSync(first));
  const child = start(['pull', 'stdout', '-o', '-'], { env: { MASKSERVE_URL: server.url } });
  const hash = createHash('sha256');
  child.stdout?.on('data', (chunk: Buffer) => hash.update(chunk));
  await once(child, 'close');
  assert.equal(hash.digest('hex'), digests.first);
});

test('compare-and-set: --if-absent and --if-match publish only onto what was expected', async () => {
  // Small, so that the whole upload is on its way before the server refuses it.
  const small = join(folder, 'small.mask');
  const set = randomTinyMask(3);
  writeFileSync(small, encodeMaskSet({ ...set, masks: set.masks.slice(0, 1) }));
  await succeed('push', 'cas', first, '--if-absent');
  await fail(['push', 'cas', small, '--if-absent'], /If-None-Match does not hold: the task is at/);
  await succeed('push', 'cas', second, '--if-match', digests.first.slice(0, 10));
  await fail(['push', 'cas', small, '--if-match', digests.first], /If-Match does not hold: the task is at/);
  await fail(
    ['push', 'cas', small, '--if-match', 'ffffffff'],
    /no version of cas has a digest that starts with ffffffff/,
  );
  await fail(['push', 'cas', small, '--if-match', 'latest'], /expected --if-match to be 4 to 64 hexadecimal digits/, 2);
  await fail(['push', 'cas', small, '--if-match', 'ffff', '--if-absent'], /cannot be used with/, 2);
  await fail(['rm', 'cas', '--if-match', digests.first], /If-Match does not hold/);
  await succeed('rm', 'cas', '--if-match', digests.second.slice(0, 10));
});

test('complete streams a text that its seed decides, and --no-stream, --json and stdin give the same', async () => {
  const args = ['complete', 'The', '--task', 'general', '--max-tokens', '12', '--seed', '7'];
  const streamed = await succeed(...args);
  assert.ok(streamed.endsWith('\n') && streamed.trim() !== '', JSON.stringify(streamed));
  assert.equal(await succeed(...args, '--no-stream'), streamed);
  const json = JSON.parse(await succeed(...args, '--json')) as { task: string; choices: { text: string }[] };
  assert.equal(json.task, 'general');
  assert.equal(json.choices[0]?.text, streamed.replace(/\n$/, ''));
  const piped = await remote(['complete', '-', ...args.slice(2)], { input: 'The' });
  assert.equal(piped.stdout, streamed);
  const silent = await remote(['complete', ...args.slice(2)], { input: 'The' });
  assert.equal(silent.stdout, streamed);
  assert.notEqual(await succeed(...args.slice(0, -1), '8'), streamed);
});

test('complete passes every sampling option on, and --verbose counts on stderr', async () => {
  const greedy = ['complete', 'The', '--temperature', '0', '--max-tokens', '12', '--no-stream'];
  const text = await succeed(...greedy);
  assert.equal(await succeed('complete', 'The', '--top-k', '1', '--max-tokens', '12'), text);
  const stop = text.trim().slice(3, 6);
  assert.equal(
    (await succeed(...greedy, '--stop', stop, '--stop', '§')).trimEnd(),
    text.slice(0, text.indexOf(stop)).trimEnd(),
  );
  const { stderr } = await remote([...greedy, '--verbose']);
  assert.match(stderr, /^\d+ prompt tokens, 12 generated in \d+\.\d\d s\n$/);
});

test('eval through the server gives what eval without one gives', async () => {
  const args = ['eval', '--task', 'general', '--data', TEXT, '--windows', '2', '--json'];
  const through = JSON.parse(await succeed(...args)) as { task: string; tokens: number; nll: number; ppl: number };
  const local = JSON.parse(await succeed(...args, '--local')) as typeof through;
  assert.deepEqual(Object.keys(through), ['task', 'tokens', 'nll', 'ppl']);
  assert.deepEqual([through.task, through.tokens], ['general', 512]);
  assert.ok(Math.abs(through.nll - local.nll) < 1e-9, `${through.nll} and ${local.nll}`);
});

test('a parent is listed by the name that had its mask first', async () => {
  const parentOfC = async (): Promise<string | undefined> => /^c +\w+ +(\S+)/m.exec(await succeed('tasks'))?.[1];
  assert.equal(await parentOfC(), 'general');
  await succeed('push', 'again', join(TINY, 'masks', 'general.mask'));
  assert.equal(await parentOfC(), 'general');
  await succeed('rm', 'again');
});

test('prune --task publishes its mask', async () => {
  const pruned = JSON.parse(await succeed('prune', '--method', 'magnitude', '--task', 'pruned', '--json')) as Mask;
  const tasks = JSON.parse(await succeed('tasks', '--json')) as Mask[];
  assert.equal(tasks.find(({ task }) => task === 'pruned')?.digest, pruned.digest);
});

test('an unknown task, a wrong name, a wrong file and a mask for other weights are refused with one line each', async () => {
  const foreign = join(folder, 'foreign.mask');
  const masks = [{ name: 'model.layers.0.mlp.up_proj.weight', rows: 4, cols: 8, symbols: new Uint8Array(8) }];
  writeFileSync(foreign, encodeMaskSet({ n: 2, m: 4, base: 'ee'.repeat(32), masks }));
  await fail(['complete', 'The', '--task', 'nobody'], /^maskctl: no task "nobody"; "maskctl tasks" lists them\n$/);
  await fail(['eval', '--task', 'nobody', '--data', TEXT], /no task "nobody"/);
  await fail(['versions', 'nobody'], /there is no task "nobody"; "maskctl tasks" lists them/);
  await fail(['rollback', 'nobody'], /there is no task "nobody"/);
  await fail(['rm', 'general'], /general/);
  await fail(['push', 'dense', foreign], /"dense" is reserved/);
  await fail(['push', 'Not A Name', foreign], /expected a task name of 1 to 64 characters/);
  await fail(['push', 'foreign', foreign], /expected a mask set for the base weights .*, got one for (ee){32}/);
  await fail(['push', 'text', TEXT], /Readme\.md: expected a mask container/);
  await fail(['push', 'none', join(folder, 'none.mask')], /expected a file at .*none\.mask, but there is none/);
  await fail(['pull', 'general', '-o', folder], /expected a file name but received the directory/, 2);
  await fail(['pull', 'general', '-o', '-', '--json'], /both go to stdout/, 2);
});

test('a server that asks for a key gets it from --key or MASKSERVE_API_KEY', async (t) => {
  const keysFile = join(folder, 'keys.json');
  const keys = [{ name: 'ops', sha256: sha256('secret'), scopes: ['admin'] }];
  writeFileSync(keysFile, JSON.stringify({ keys }));
  const guarded = await serveTiny('--keys', keysFile);
  t.after(() => guarded.close());
  const at = ['--server', guarded.url];
  await fail(['tasks', ...at], /expected an API key: .*\(here: --key KEY, or MASKSERVE_API_KEY\)/);
  await fail(['tasks', ...at, '--key', 'guess'], /not one of this server.*\(here: --key KEY, or MASKSERVE_API_KEY\)/);
  assert.match(await succeed('tasks', ...at, '--key', 'secret'), /^general /m);
  const { code } = await remote(['tasks'], { env: { MASKSERVE_API_KEY: 'secret', MASKSERVE_URL: guarded.url } });
  assert.equal(code, 0);
});

test('no server, or another kind of server, is said so', async (t) => {
  const other = createServer((_request, response) => response.end('<html>hello</html>')).listen(0, '127.0.0.1');
  await once(other, 'listening');
  t.after(() => other.close());
  const { port } = other.address() as AddressInfo;
  await fail(
    ['tasks', '--server', `127.0.0.1:${port}`],
    /does not answer like maskserve: expected JSON but received "<html>/,
  );
  other.close();
  other.closeAllConnections();
  await once(other, 'close');
  await fail(
    ['tasks', '--server', `http://127.0.0.1:${port}`],
    new RegExp(
      `can't reach http://127.0.0.1:${port}: ECONNREFUSED; is maskserve running there\\? Start it with "maskserve", or name another server by --server URL`,
    ),
  );
  await fail(['tasks', '--server', 'ftp://host'], /expected --server \(or MASKSERVE_URL\) to be like http:/, 2);
});

test('a reader that closes the pipe ends the command quietly', async () => {
  const child = start(['tasks'], { env: { MASKSERVE_URL: server.url } });
  child.stdout?.destroy();
  const { code, stderr } = await finished(child);
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
});

test('Ctrl-C ends a download quietly, with no half file left behind', async (t) => {
  // A server that sends half a mask and no more.
  const bytes = readFileSync(first);
  const slow = createServer((_request, response) => {
    response.writeHead(200, { 'X-Mask-Digest': digests.first, 'Content-Length': bytes.length });
    response.write(bytes.subarray(0, 100_000));
  }).listen(0, '127.0.0.1');
  await once(slow, 'listening');
  t.after(() => {
    slow.close();
    slow.closeAllConnections();
  });
  const { port } = slow.address() as AddressInfo;
  const out = join(folder, 'interrupted.mask');
  const child = start(['pull', 'life', '-o', out, '--server', `127.0.0.1:${port}`]);
  const ended = finished(child);
  const partial = (): boolean => readdirSync(folder).some((name) => name.endsWith('.part'));
  while (!partial()) await new Promise((resolve) => setTimeout(resolve, 10));
  child.kill('SIGINT');
  const { code, stdout, stderr } = await ended;
  assert.deepEqual({ code, stdout, stderr }, { code: 130, stdout: '', stderr: '' });
  assert.ok(!partial() && !existsSync(out));
});

test('bytes that are not those of the digest are not kept', async (t) => {
  const liar = createServer((_request, response) => {
    response.writeHead(200, { 'X-Mask-Digest': digests.second });
    response.end(readFileSync(first));
  }).listen(0, '127.0.0.1');
  await once(liar, 'listening');
  t.after(() => liar.close());
  const { port } = liar.address() as AddressInfo;
  const out = join(folder, 'lie.mask');
  await fail(
    ['pull', 'life', '-o', out, '--server', `127.0.0.1:${port}`],
    /with the digest [0-9a-f]{64} but received \d+ with/,
  );
  assert.ok(!existsSync(out) && !readdirSync(folder).some((name) => name.endsWith('.part')));
});
