/** maskserve as a process of its own on a store that outlives it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { TINY } from '../../tiny.js';

const MAIN = fileURLToPath(new URL('../../../server/main.js', import.meta.url));

export interface ServerProcess {
  readonly url: string;
  /** Resolves to the exit code, null after SIGKILL. */
  end(signal: 'SIGTERM' | 'SIGKILL'): Promise<number | null>;
}

export async function startProcess(store: string, ...flags: string[]): Promise<ServerProcess> {
  const args = ['--model', TINY, '--store', store, '--port', '0', '--threads', '1', '--log-level', 'error', ...flags];
  const child = spawn(process.execPath, [MAIN, '--no-autotune', ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(child, 'exit').then(([code]) => code as number | null);
  let said = '';
  for await (const text of child.stdout.setEncoding('utf8') as AsyncIterable<string>) {
    said += text;
    const url = /ready at (http:\S+)/.exec(said)?.[1];
    if (url === undefined) continue;
    return {
      url,
      end: (signal) => {
        child.kill(signal);
        return exited;
      },
    };
  }
  throw new Error(`expected maskserve to say "ready at URL" but it said ${JSON.stringify(said)}`);
}
