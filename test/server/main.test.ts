import assert from 'node:assert/strict';
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const MAIN = fileURLToPath(new URL('../../server/main.js', import.meta.url));

interface Maskserve {
  readonly child: ChildProcess;
  readonly url: string;
  readonly greeting: string;
  readonly log: () => string;
  /** Exit code. */
  readonly ended: Promise<number | null>;
}

describe('the command maskserve', () => {
  const folder = mkdtempSync(join(tmpdir(), 'maskserve-main-'));
  const children = new Set<ChildProcess>();
  after(() => {
    for (const child of children) child.kill('SIGKILL');
    rmSync(folder, { recursive: true });
  });

  function launch(args: readonly string[]): { child: ChildProcess; output: { stdout: string; stderr: string } } {
    const child = spawn(process.execPath, [MAIN, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    children.add(child);
    const output = { stdout: '', stderr: '' };
    child.stdout?.on('data', (data: Buffer) => (output.stdout += data.toString()));
    child.stderr?.on('data', (data: Buffer) => (output.stderr += data.toString()));
    return { child, output };
  }

  async function start(store: string, args: readonly string[] = []): Promise<Maskserve> {
    const { child, output } = launch([
      '--port',
      '0',
      '--threads',
      '1',
      '--no-autotune',
      '--store',
      join(folder, store),
      ...args,
    ]);
    const ended = once(child, 'exit').then(([code]) => code as number | null);
    while (!output.stdout.includes('-d ')) {
      if (child.exitCode !== null) throw new Error(`it ended: ${output.stderr}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    const url = /http:\/\/[\d.:]+/.exec(output.stdout)?.[0] ?? '';
    return { child, url, greeting: output.stdout, log: () => output.stderr, ended };
  }

  /** Exit code and everything said, of a command that ends by itself. */
  async function run(args: readonly string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
    const { child, output } = launch(args);
    const [code] = (await once(child, 'close')) as [number | null];
    return { code, ...output };
  }

  const stream = (url: string, maxTokens: number): Promise<Response> =>
    fetch(`${url}/v1/completions`, {
      method: 'POST',
      body: JSON.stringify({ prompt: 'a', max_tokens: maxTokens, stream: true, ignore_eos: true }),
    });

  it('prints a curl line that works when it is ready, and ends on SIGTERM with 0', async () => {
    const server = await start('curl');
    const line = server.greeting.split('\n').find((text) => text.startsWith('  curl ')) ?? '';
    const { stdout } = await promisify(execFile)('bash', ['-c', `${line.trim()} --silent`]);
    const { choices } = JSON.parse(stdout) as { choices: { text: string }[] };
    assert.ok((choices[0]?.text.length ?? 0) > 10, stdout);
    server.child.kill('SIGTERM');
    assert.equal(await server.ended, 0);
    for (const entry of server.log().trim().split('\n')) JSON.parse(entry);
  });

  it('does not wait for connections without a request', { timeout: 30_000 }, async () => {
    const server = await start('idle', ['--drain-timeout', '86400']);
    const { port } = new URL(server.url);
    const unused = connect(Number(port), '127.0.0.1');
    await once(unused, 'connect');
    await (await fetch(`${server.url}/healthz`)).text();
    server.child.kill('SIGTERM');
    await once(unused, 'close');
    assert.equal(await server.ended, 0);
  });

  it('finishes a running stream when it is told to stop, and takes nothing new', async () => {
    const server = await start('drain');
    const response = await stream(server.url, 1000);
    const reader = response.body?.getReader();
    await reader?.read();
    server.child.kill('SIGINT');
    await assert.rejects(async () => {
      for (;;) await (await fetch(`${server.url}/healthz`)).text();
    }, 'it takes no new connections');
    let text = '';
    for (let part = await reader?.read(); part && !part.done; part = await reader?.read()) {
      text += Buffer.from(part.value).toString();
    }
    assert.match(text, /data: \[DONE\]\n\n$/);
    assert.equal(await server.ended, 0);
  });

  it('cuts what still runs at the deadline, with an error that says why', async () => {
    const server = await start('deadline', ['--drain-timeout', '0']);
    const response = await stream(server.url, 1000);
    const text = response.text();
    server.child.kill('SIGTERM');
    assert.match(await text, /"code":"shutting_down"/);
    assert.equal(await server.ended, 0);
  });

  it('ends at once on a second signal', async () => {
    const server = await start('twice');
    const bodies = Promise.allSettled(
      Array.from({ length: 4 }, () => stream(server.url, 1000).then((response) => response.text())),
    );
    await new Promise((resolve) => setTimeout(resolve, 100));
    server.child.kill('SIGTERM');
    while (!server.log().includes('draining')) await new Promise((resolve) => setTimeout(resolve, 5));
    server.child.kill('SIGTERM');
    assert.equal(await server.ended, 1);
    await bodies;
  });

  it('prints its options and its version', async () => {
    const help = await run(['--help']);
    assert.equal(help.code, 0);
    assert.match(help.stdout, /--cache-bytes BYTES/);
    assert.match((await run(['--version'])).stdout, /^\d+\.\d+\.\d+\n$/);
  });

  describe('says in one line what is wrong,', () => {
    async function complaint(args: readonly string[], code: number): Promise<string> {
      const result = await run(['--store', join(folder, 'wrong'), '--log-level', 'silent', ...args]);
      assert.equal(result.code, code, result.stderr);
      assert.equal(result.stdout, '');
      assert.match(result.stderr, /^maskserve: [^\n]+\n$/);
      return result.stderr;
    }

    it('of its options', async () => {
      assert.match(await complaint(['--port', 'x'], 2), /--port/);
      assert.match(await complaint(['--host', '0.0.0.0'], 2), /--keys FILE/);
      assert.match(await complaint(['--model', '/nowhere'], 2), /nothing at \/nowhere/);
    });

    it('of a port in use', async () => {
      const other = createServer().listen(0, '127.0.0.1');
      await once(other, 'listening');
      const { port } = other.address() as AddressInfo;
      assert.match(await complaint(['--port', String(port)], 1), new RegExp(`port ${port} .* in use; .*--port`));
      other.close();
    });

    it('of a directory without a model, and of a file that is no keys file', async () => {
      assert.match(await complaint(['--model', folder, '--port', '0'], 1), /config\.json/);
      assert.match(await complaint(['--keys', MAIN, '--port', '0'], 1), /expected JSON in the keys file/);
    });

    it('of a default task that is not there', async () => {
      assert.match(await complaint(['--default-task', 'klingon', '--port', '0'], 1), /--default-task .*"klingon"/);
    });
  });
});
