/** The real server for tests: models/tiny without its masks, a store of its own, port 0, in this process. */
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { encodeMaskSet } from '../../../codec/encode.js';
import { createHash } from 'node:crypto';
import { parseConfig, type Config } from '../../../server/config.js';
import type { Limits } from '../../../server/http/limits.js';
import { serve, type RunningServer } from '../../../server/serve.js';
import { randomMask } from '../../bench/random-mask.js';
import { TINY } from '../../tiny.js';

export interface RealServer extends RunningServer {
  readonly folder: string;
  /** fetch of a path. */
  get(path: string, init?: RequestInit): Promise<Response>;
  post(path: string, body: unknown, headers?: Record<string, string>): Promise<Response>;
  /** Publishes a container as a task. */
  publish(task: string, bytes: Uint8Array, headers?: Record<string, string>): Promise<Response>;
  close(): Promise<void>;
}

export interface RealServerOptions {
  /** Settings to add to the model's tokenizer_config.json. */
  readonly tokenizerSettings?: Readonly<Record<string, unknown>>;
  readonly config?: Partial<Config>;
  readonly limits?: Partial<Limits>;
}

/** A container for models/tiny with random patterns, and its digest: as valid as a learned one. */
export function sampleMask(server: Pick<RunningServer, 'model'>, seed: number): { bytes: Uint8Array; digest: string } {
  const bytes = encodeMaskSet(randomMask(server.model, seed));
  return { bytes, digest: createHash('sha256').update(bytes).digest('hex') };
}

export async function startRealServer({
  config,
  limits,
  tokenizerSettings,
}: RealServerOptions = {}): Promise<RealServer> {
  const folder = await mkdtemp(join(tmpdir(), 'maskserve-http-'));
  const model = await tinyWithoutMasks(folder, tokenizerSettings);
  const command = parseConfig(['--model', model, '--store', join(folder, 'store'), '--port', '0', '--no-autotune'], {});
  if (command.type !== 'serve') throw new Error('expected a configuration');
  const settings = { ...command.config, cacheBytes: 64 * 2 ** 20, kvBytes: 256 * 2 ** 20, threads: 1, ...config };
  const server = await serve(settings, pino({ level: 'silent' }), { limits: limits ?? {} });
  const get = (path: string, init?: RequestInit): Promise<Response> => fetch(server.url + path, init);
  return {
    ...server,
    folder,
    get,
    post: (path, body, headers = {}) =>
      get(path, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', ...headers },
        body: typeof body === 'string' ? body : JSON.stringify(body),
      }),
    publish: (task, bytes, headers = {}) => get(`/v1/masks/${task}`, { method: 'PUT', headers, body: bytes }),
    close: async () => {
      await server.stop(5_000);
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** The same model, without the masks that ship with it: the tests say which tasks there are. */
async function tinyWithoutMasks(folder: string, tokenizerSettings: object = {}): Promise<string> {
  const model = join(folder, 'tiny');
  await mkdir(model);
  for (const name of ['config.json', 'model.safetensors', 'tokenizer.json']) {
    await symlink(join(TINY, name), join(model, name));
  }
  const settings = JSON.parse(await readFile(join(TINY, 'tokenizer_config.json'), 'utf8')) as object;
  await writeFile(join(model, 'tokenizer_config.json'), JSON.stringify({ ...settings, ...tokenizerSettings }));
  return model;
}

interface ErrorAnswer {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: string;
  };
}

/** Status and body of a refused request. */
export async function refusal(response: Response): Promise<ErrorAnswer['error'] & { readonly status: number }> {
  const body = (await response.json()) as ErrorAnswer;
  return { status: response.status, ...body.error };
}

/** The data of every event of a stream, [DONE] included. */
export function eventsOf(text: string): string[] {
  return text
    .split('\n\n')
    .filter((block) => block.startsWith('data: '))
    .map((block) => block.slice('data: '.length));
}

/** Waits until something holds; throws what it waited for when it never does. */
export async function eventually(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (let attempt = 0; attempt < 500; attempt++) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`never came: ${what}`);
}
