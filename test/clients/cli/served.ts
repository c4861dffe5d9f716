/** `maskserve` as a process of its own, on models/tiny, a free port and a store that goes with it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { MaskSet } from '../../../codec/mask-set.js';
import { Random } from '../../../server/engine/random.js';
import { shippedSet } from '../../shipped-masks.js';
import { TINY } from '../../tiny.js';

const MAIN = fileURLToPath(new URL('../../../server/main.js', import.meta.url));

export interface Served {
  readonly url: string;
  /** SIGTERM, and waits until it is gone. */
  close(): Promise<void>;
}

export async function serveTiny(...flags: string[]): Promise<Served> {
  const folder = mkdtempSync(join(tmpdir(), 'maskctl-store-'));
  const args = ['--model', TINY, '--store', folder, '--port', '0', '--threads', '1', '--log-level', 'warn', ...flags];
  const child = spawn(process.execPath, [MAIN, '--no-autotune', ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  let said = '';
  for await (const text of child.stdout.setEncoding('utf8') as AsyncIterable<string>) {
    said += text;
    const url = /ready at (http:\S+)/.exec(said)?.[1];
    if (url === undefined) continue;
    return {
      url,
      close: async () => {
        child.kill();
        await exited;
        rmSync(folder, { recursive: true, force: true });
      },
    };
  }
  throw new Error(`expected maskserve to say "ready at URL" but it said ${JSON.stringify(said)}`);
}

/** A mask set for models/tiny with random patterns: as valid as a learned one. */
export function randomTinyMask(seed: number): MaskSet {
  const shipped = shippedSet('general');
  const random = new Random(seed);
  const masks = shipped.masks.map((mask) => ({
    ...mask,
    symbols: mask.symbols.map(() => Math.floor(random.uniform() * 6)),
  }));
  return { ...shipped, masks };
}
