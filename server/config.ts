/** Flags and environment → one frozen, checked Config. Every option is a row of OPTIONS: its flag, its variable, its check and its line in --help. */
import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism, totalmem } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { isLoopbackName } from './http/access.js';
import {
  byteCount,
  byteCountOrNone,
  ConfigError,
  directory,
  file,
  integer,
  oneOf,
  origin,
  path,
  text,
} from './option-values.js';

export interface Config {
  /** Absolute path of a Hugging Face model directory. */
  readonly model: string;
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  /** Absolute path. */
  readonly store: string;
  readonly cacheBytes: number;
  /** Beside cacheBytes. */
  readonly warmBytes: number;
  readonly kvBytes: number;
  readonly kvType: KvChoice;
  /** The two of these that were asked for: on a GPU their defaults are shares of what the weights leave free there. */
  readonly given: { readonly cacheBytes: number | undefined; readonly kvBytes: number | undefined };
  readonly backend: BackendChoice;
  /** Of a model on a GPU: where its dense matrices stay. */
  readonly denseWeights: DensePlace;
  /** 0: all cores. */
  readonly threads: number;
  /** Whether choices between CPU kernels are measured when the model is loaded; false: they go by a rule. */
  readonly autotune: boolean;
  readonly maxContext: number | undefined;
  readonly maxRunning: number;
  readonly maxQueue: number;
  readonly maxBodyBytes: number;
  readonly maxMaskBytes: number;
  readonly maxTrainBytes: number;
  readonly trainThreads: number;
  /** `same`: where the model runs. */
  readonly trainBackend: TrainBackend;
  /** Jobs that may wait. */
  readonly trainQueue: number;
  readonly trainCheckpointSeconds: number;
  /** Without a keys file whoever reaches the server is admin, and it binds to loopback only. */
  readonly keysFile: string | undefined;
  readonly allowOrigins: readonly string[];
  readonly defaultTask: string;
  readonly requestTimeoutMs: number;
  readonly drainTimeoutMs: number;
  readonly logLevel: LogLevel;
}

/** `auto`: the GPU where there is one that works. */
export type BackendChoice = (typeof BACKENDS)[number];

export type TrainBackend = (typeof TRAIN_BACKENDS)[number];

/** `host`: the GPU holds tasks only, for deployments of one or few. */
export type DensePlace = (typeof DENSE_PLACES)[number];

export type KvChoice = (typeof KV_TYPES)[number];

export type LogLevel = (typeof LOG_LEVELS)[number];

/** What the command line asks for. */
export type Command = { readonly type: 'print'; readonly text: string } | { readonly type: 'serve'; config: Config };

interface Option<T> {
  readonly value: string;
  readonly parse: (text: string, name: string) => T;
  readonly help: string;
  /** Shown by --help; the value itself is filled in by parseConfig. */
  readonly byDefault: string;
}

const BACKENDS = ['auto', 'cpu', 'cuda'] as const;
const TRAIN_BACKENDS = ['same', 'cpu'] as const;
const DENSE_PLACES = ['device', 'host'] as const;
const KV_TYPES = ['bf16', 'f32'] as const;
const LOG_LEVELS = ['silent', 'fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const;
const KIB = 1024;
const PACKAGE_ROOT = fileURLToPath(new URL('../../', import.meta.url));
/** Shares of this machine's memory, or of the container's limit. */
const CACHE_SHARE = 1 / 4;
const KV_SHARE = 1 / 8;
/** Of the memory for resident tasks: the nibbles of nine tasks take what one takes compacted. */
const WARM_SHARE = 1 / 8;

const OPTIONS = {
  model: {
    value: 'DIR',
    parse: directory,
    byDefault: 'models/tiny of this package',
    help: 'Hugging Face directory of a LLaMA-family model',
  },
  host: { value: 'NAME', parse: text, byDefault: '127.0.0.1', help: 'address to listen on; others need --keys' },
  port: { value: 'N', parse: integer(0, 65535), byDefault: '8080', help: 'port to listen on; 0: any free one' },
  store: {
    value: 'DIR',
    parse: path,
    byDefault: '.maskserve/<model name>, here',
    help: 'where published masks are kept',
  },
  'cache-bytes': {
    value: 'BYTES',
    parse: byteCount,
    byDefault: 'a quarter of memory',
    help: 'memory for resident tasks, e.g. 512M, 2G; of a GPU what --kv-bytes leaves, half of it for training jobs',
  },
  'warm-bytes': {
    value: 'BYTES',
    parse: byteCountOrNone,
    byDefault: 'an eighth of --cache-bytes',
    help: 'memory for decoded masks of evicted tasks; 0: none',
  },
  'kv-bytes': {
    value: 'BYTES',
    parse: byteCount,
    byDefault: 'an eighth of memory',
    help: 'memory for key-value caches of running sequences',
  },
  'kv-dtype': {
    value: 'TYPE',
    parse: oneOf(KV_TYPES),
    byDefault: 'bf16',
    help: `what key-value caches hold: ${KV_TYPES.join(', ')}`,
  },
  backend: {
    value: 'NAME',
    parse: oneOf(BACKENDS),
    byDefault: 'auto: cuda where it works',
    help: `where the model runs: ${BACKENDS.join(', ')}; "maskctl doctor" says what was found`,
  },
  'dense-weights': {
    value: 'PLACE',
    parse: oneOf(DENSE_PLACES),
    byDefault: 'device',
    help: 'of a GPU: where dense matrices are kept; host: it holds tasks only, and dense is not served',
  },
  threads: { value: 'N', parse: integer(0, 1024), byDefault: '0', help: 'threads of the kernels; 0: all cores' },
  'max-context': {
    value: 'TOKENS',
    parse: integer(1, 1 << 24),
    byDefault: "the model's, at most 8192",
    help: 'positions a sequence may have',
  },
  'max-running': {
    value: 'N',
    parse: integer(1, 4096),
    byDefault: '16',
    help: 'sequences that take turns; more wait in the queue',
  },
  'max-queue': {
    value: 'N',
    parse: integer(0, 1 << 20),
    byDefault: '256',
    help: 'sequences that may wait before 429 queue_full',
  },
  'max-body-bytes': { value: 'BYTES', parse: byteCount, byDefault: '16M', help: 'largest JSON body' },
  'max-mask-bytes': { value: 'BYTES', parse: byteCount, byDefault: '2G', help: 'largest mask upload' },
  'max-train-bytes': { value: 'BYTES', parse: byteCount, byDefault: '256M', help: 'most text of a training job' },
  'train-backend': {
    value: 'NAME',
    parse: oneOf(TRAIN_BACKENDS),
    byDefault: 'same: where the model runs',
    help: `where training jobs run: ${TRAIN_BACKENDS.join(', ')}; cpu leaves all of a GPU to those that serve`,
  },
  'train-threads': {
    value: 'N',
    parse: integer(1, 1024),
    byDefault: 'half of the cores',
    help: 'threads of a training job; they give way to those that serve',
  },
  'train-queue': {
    value: 'N',
    parse: integer(0, 1000),
    byDefault: '8',
    help: 'training jobs that may wait before 429 queue_full',
  },
  'train-checkpoint': {
    value: 'SECONDS',
    parse: integer(0, 86400),
    byDefault: '30',
    help: 'work of a training job that a crash may cost; 0: save every step',
  },
  keys: { value: 'FILE', parse: file, byDefault: 'none', help: 'JSON file of API keys (see below)' },
  'allow-origin': {
    value: 'URL',
    parse: origin,
    byDefault: 'none',
    help: 'origin whose pages may call this server from a browser; may be repeated',
  },
  'default-task': {
    value: 'TASK',
    parse: text,
    byDefault: "a prepared base's own, else dense",
    help: 'task of requests that name none',
  },
  'request-timeout': {
    value: 'SECONDS',
    parse: integer(1, 86400),
    byDefault: '600',
    help: 'longest a completion may take, waiting included',
  },
  'drain-timeout': {
    value: 'SECONDS',
    parse: integer(0, 86400),
    byDefault: '30',
    help: 'how long running requests may go on after SIGTERM',
  },
  'log-level': { value: 'LEVEL', parse: oneOf(LOG_LEVELS), byDefault: 'info', help: `one of ${LOG_LEVELS.join(', ')}` },
} as const satisfies Record<string, Option<unknown>>;

/** Options without a value. As a variable: 1 or 0. */
const SWITCHES = {
  'no-autotune':
    'choose CPU kernels by a rule, not by what is measured once per machine and kept in ~/.cache/maskserve',
} as const satisfies Record<string, string>;

type OptionName = keyof typeof OPTIONS;

/** `argv` without node and script. Flags win over variables, variables over defaults. Throws ConfigError. */
export function parseConfig(argv: readonly string[], env: Readonly<Record<string, string | undefined>>): Command {
  const flags = readFlags(argv);
  if (flags['help'] === true) return { type: 'print', text: helpText() };
  if (flags['version'] === true) return { type: 'print', text: packageVersion() };
  const given = <K extends OptionName>(name: K): ReturnType<(typeof OPTIONS)[K]['parse']> | undefined => {
    const all = givenAll(name, flags, env);
    return all[all.length - 1];
  };
  const model = given('model') ?? join(PACKAGE_ROOT, 'models', 'tiny');
  const memory = availableMemory();
  const asked = { cacheBytes: given('cache-bytes'), kvBytes: given('kv-bytes') };
  const cacheBytes = asked.cacheBytes ?? Math.floor(memory * CACHE_SHARE);
  const config: Config = Object.freeze({
    model,
    host: given('host') ?? '127.0.0.1',
    port: given('port') ?? 8080,
    store: given('store') ?? resolve('.maskserve', basename(model)),
    cacheBytes,
    warmBytes: given('warm-bytes') ?? Math.floor(cacheBytes * WARM_SHARE),
    kvBytes: asked.kvBytes ?? Math.floor(memory * KV_SHARE),
    kvType: given('kv-dtype') ?? 'bf16',
    given: Object.freeze(asked),
    backend: given('backend') ?? 'auto',
    denseWeights: given('dense-weights') ?? 'device',
    threads: given('threads') ?? 0,
    autotune: !isOn('no-autotune', flags, env),
    maxContext: given('max-context'),
    maxRunning: given('max-running') ?? 16,
    maxQueue: given('max-queue') ?? 256,
    maxBodyBytes: given('max-body-bytes') ?? 16 * KIB ** 2,
    maxMaskBytes: given('max-mask-bytes') ?? 2 * KIB ** 3,
    maxTrainBytes: given('max-train-bytes') ?? 256 * KIB ** 2,
    trainBackend: given('train-backend') ?? 'same',
    trainThreads: given('train-threads') ?? Math.max(1, Math.floor(availableParallelism() / 2)),
    trainQueue: given('train-queue') ?? 8,
    trainCheckpointSeconds: given('train-checkpoint') ?? 30,
    keysFile: given('keys'),
    allowOrigins: Object.freeze(givenAll('allow-origin', flags, env)),
    defaultTask: given('default-task') ?? preparedDefaultTask(model) ?? 'dense',
    requestTimeoutMs: (given('request-timeout') ?? 600) * 1000,
    drainTimeoutMs: (given('drain-timeout') ?? 30) * 1000,
    logLevel: given('log-level') ?? 'info',
  });
  refuseOpenDoor(config);
  return { type: 'serve', config };
}

/** `maskctl prepare` names the task that its base is to be served through (design §10); other directories have no maskserve.json. */
function preparedDefaultTask(model: string): string | undefined {
  const file = join(model, 'maskserve.json');
  if (!existsSync(file)) return undefined;
  try {
    const { defaultTask } = JSON.parse(readFileSync(file, 'utf8')) as { defaultTask?: unknown };
    if (typeof defaultTask === 'string') return defaultTask;
  } catch {
    // falls through: the same complaint as for a file without the field
  }
  throw new ConfigError(
    `expected JSON with "defaultTask" in ${file}, as maskctl prepare writes it; pass --default-task to do without`,
  );
}

function readFlags(argv: readonly string[]): Record<string, string | boolean | (string | boolean)[] | undefined> {
  const options: Record<string, { type: 'string' | 'boolean'; short?: string; multiple?: boolean }> = {
    help: { type: 'boolean', short: 'h' },
    version: { type: 'boolean', short: 'V' },
  };
  for (const name of Object.keys(OPTIONS)) options[name] = { type: 'string', multiple: true };
  for (const name of Object.keys(SWITCHES)) options[name] = { type: 'boolean' };
  try {
    return parseArgs({ args: [...argv], options, allowPositionals: false }).values;
  } catch (error) {
    const reason = (error as Error).message.split('\n')[0]?.replace(/\. To specify .*$/, '') ?? '';
    throw new ConfigError(`${reason}; see maskserve --help`);
  }
}

/** All values of a repeatable option, checked; from the variable (comma-separated) where no flag is there. */
function givenAll<K extends OptionName>(
  name: K,
  flags: ReturnType<typeof readFlags>,
  env: Readonly<Record<string, string | undefined>>,
): ReturnType<(typeof OPTIONS)[K]['parse']>[] {
  const parse = OPTIONS[name].parse as (text: string, name: string) => ReturnType<(typeof OPTIONS)[K]['parse']>;
  const fromFlags = flags[name];
  if (Array.isArray(fromFlags)) return fromFlags.map((value) => parse(String(value), `--${name}`));
  const variable = variableOf(name);
  const fromEnv = env[variable];
  if (fromEnv === undefined || fromEnv === '') return [];
  const values = name === 'allow-origin' ? fromEnv.split(',') : [fromEnv];
  return values.map((value) => parse(value.trim(), variable));
}

function isOn(
  name: keyof typeof SWITCHES,
  flags: ReturnType<typeof readFlags>,
  env: Readonly<Record<string, string | undefined>>,
): boolean {
  if (flags[name] === true) return true;
  const variable = variableOf(name);
  return oneOf(['1', '0'])(env[variable] || '0', variable) === '1';
}

function refuseOpenDoor({ host, keysFile }: Config): void {
  if (keysFile !== undefined || isLoopbackName(host)) return;
  throw new ConfigError(
    `refusing to listen on ${host} without keys, as whoever reaches the server would be its admin: pass --keys FILE (see maskserve --help), or --host 127.0.0.1`,
  );
}

/** The container's limit where there is one: the operating system's total otherwise. */
function availableMemory(): number {
  const limit = process.constrainedMemory?.() ?? 0;
  const total = totalmem();
  return limit > 0 && limit < total ? limit : total;
}

function variableOf(name: string): string {
  return `MASKSERVE_${name.replaceAll('-', '_').toUpperCase()}`;
}

function helpText(): string {
  const rows = Object.entries(OPTIONS).map(([name, { value, help, byDefault }]) => {
    return `  ${`--${name} ${value}`.padEnd(27)}${help} (default: ${byDefault})`;
  });
  const switches = Object.entries(SWITCHES).map(([name, help]) => `  ${`--${name}`.padEnd(27)}${help}`);
  return `maskserve: serve many tasks from one frozen model, each task a 2:4 mask

usage: maskserve [options]

${[...rows, ...switches].join('\n')}
  ${'-h, --help'.padEnd(27)}print this
  ${'-V, --version'.padEnd(27)}print the version

Every option can be given as a variable as well: --cache-bytes 2G is MASKSERVE_CACHE_BYTES=2G, --no-autotune is MASKSERVE_NO_AUTOTUNE=1. BYTES take K, M, G, T (powers of 1024).

A keys file is JSON, and holds hashes, not keys: make a key with "openssl rand -hex 32", its hash with "printf %s KEY | sha256sum".
  {"keys": [{"name": "ops",    "sha256": "…", "scopes": ["admin"]},
            {"name": "team-a", "sha256": "…", "scopes": ["infer:french", "infer:c", "publish:french"]},
            {"name": "prom",   "sha256": "…", "scopes": ["metrics"]}]}
Scopes: infer, publish (of every task, or of one after ":"), metrics, admin. Clients send "Authorization: Bearer KEY".`;
}

function packageVersion(): string {
  const { version } = JSON.parse(readFileSync(join(PACKAGE_ROOT, 'package.json'), 'utf8')) as { version: string };
  return version;
}
