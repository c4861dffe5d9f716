import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, describe, it } from 'node:test';
import { parseConfig, type Config } from '../../server/config.js';
import { byteCount, ConfigError } from '../../server/option-values.js';
import { TINY } from '../tiny.js';

describe('the configuration', () => {
  const folder = mkdtempSync(join(tmpdir(), 'maskserve-config-'));
  const keysFile = join(folder, 'keys.json');
  writeFileSync(keysFile, '{}');
  after(() => rmSync(folder, { recursive: true }));

  function parse(argv: string[], env: Record<string, string> = {}): Config {
    const command = parseConfig(argv, env);
    assert.ok(command.type === 'serve');
    return command.config;
  }

  it('has a default for everything', () => {
    const config = parse([]);
    assert.equal(resolve(config.model), resolve(TINY));
    assert.equal(config.store, resolve('.maskserve/tiny'));
    assert.deepEqual([config.host, config.port, config.defaultTask], ['127.0.0.1', 8080, 'dense']);
    assert.ok(config.cacheBytes > 2 ** 20 && config.kvBytes > 2 ** 20);
    assert.equal(config.requestTimeoutMs, 600_000);
    assert.ok(Object.isFrozen(config));
  });

  it('serves a prepared base through the task that it names, unless told otherwise', () => {
    const prepared = mkdtempSync(join(folder, 'prepared-'));
    const file = join(prepared, 'maskserve.json');
    writeFileSync(file, '{"defaultTask": "general"}');
    assert.equal(parse(['--model', prepared]).defaultTask, 'general');
    assert.equal(parse(['--model', prepared, '--default-task', 'dense']).defaultTask, 'dense');
    writeFileSync(file, '{}');
    assert.throws(() => parse(['--model', prepared]), /expected JSON with "defaultTask" in .*maskserve\.json/);
  });

  it('keeps each model’s masks apart where no store is named', () => {
    assert.equal(parse(['--model', folder]).store, resolve('.maskserve', folder.split('/').pop() ?? ''));
  });

  it('takes flags before variables, variables before defaults', () => {
    const env = { MASKSERVE_PORT: '1', MASKSERVE_CACHE_BYTES: '2G', MASKSERVE_HOST: '' };
    const config = parse(['--port', '2', '--port=3'], env);
    assert.deepEqual([config.port, config.cacheBytes, config.host], [3, 2 * 2 ** 30, '127.0.0.1']);
  });

  it('runs where it is told to, and remembers which memory was asked for', () => {
    assert.deepEqual([parse([]).backend, parse(['--backend', 'cpu']).backend], ['auto', 'cpu']);
    assert.equal(parse([], { MASKSERVE_BACKEND: 'cuda' }).backend, 'cuda');
    assert.throws(
      () => parse(['--backend', 'rocm']),
      /expected one of auto, cpu, cuda for --backend but received "rocm"/,
    );
    assert.deepEqual([parse([]).trainBackend, parse(['--train-backend', 'cpu']).trainBackend], ['same', 'cpu']);
    assert.equal(parse([], { MASKSERVE_TRAIN_BACKEND: 'cpu' }).trainBackend, 'cpu');
    assert.throws(() => parse(['--train-backend', 'cuda']), /expected one of same, cpu for --train-backend/);
    assert.deepEqual([parse([]).kvType, parse(['--kv-dtype', 'f32']).kvType], ['bf16', 'f32']);
    assert.throws(() => parse(['--kv-dtype', 'fp8']), /expected one of bf16, f32 for --kv-dtype but received "fp8"/);
    assert.deepEqual(parse([]).given, { cacheBytes: undefined, kvBytes: undefined });
    assert.deepEqual(parse(['--kv-bytes', '1M']).given, { cacheBytes: undefined, kvBytes: 2 ** 20 });
  });

  it('measures kernels unless it is told not to, by a flag or by 1 in its variable', () => {
    assert.deepEqual([parse([]).autotune, parse(['--no-autotune']).autotune], [true, false]);
    const variable = (value: string): boolean => parse([], { MASKSERVE_NO_AUTOTUNE: value }).autotune;
    assert.deepEqual(['1', '0', ''].map(variable), [false, true, true]);
    assert.throws(() => variable('yes'), /^Error: expected one of 1, 0 for MASKSERVE_NO_AUTOTUNE but received "yes"$/);
  });

  it('takes several origins', () => {
    const flags = parse(['--allow-origin', 'https://a.example', '--allow-origin', 'http://b.example:81/']);
    assert.deepEqual(flags.allowOrigins, ['https://a.example', 'http://b.example:81']);
    const env = parse([], { MASKSERVE_ALLOW_ORIGIN: 'https://a.example, http://b.example:81' });
    assert.deepEqual(env.allowOrigins, flags.allowOrigins);
  });

  it('reads sizes', () => {
    for (const [text, bytes] of [
      ['1', 1],
      ['512M', 512 * 2 ** 20],
      ['2G', 2 ** 31],
      ['1.5k', 1536],
      ['3MiB', 3 * 2 ** 20],
      ['1TB', 2 ** 40],
    ] as const) {
      assert.equal(byteCount(text, '--x'), bytes, text);
    }
  });

  it('binds to other addresses only with keys', () => {
    for (const host of ['0.0.0.0', '::', '10.0.0.1', 'api.example']) {
      assert.throws(
        () => parse(['--host', host]),
        (error: Error) => {
          assert.ok(error instanceof ConfigError);
          assert.match(error.message, new RegExp(`^refusing to listen on ${host} without keys.*--keys FILE`));
          return true;
        },
      );
      assert.equal(parse(['--host', host, '--keys', keysFile]).host, host);
    }
    for (const host of ['localhost', '::1', '127.0.0.2']) assert.equal(parse(['--host', host]).host, host);
  });

  const mistakes: [argv: string[], message: RegExp][] = [
    [['--port', '70000'], /^expected a whole number from 0 to 65535 for --port but received "70000"$/],
    [['--port', '8o'], /but received "8o"$/],
    [['--port', '-1'], /--port/],
    [['--model', '/no/such/dir'], /^expected a directory for --model but there is nothing at \/no\/such\/dir$/],
    [['--model', keysFile], /^expected a directory for --model but .*keys\.json is a file$/],
    [['--keys', '/no/keys'], /^expected a file for --keys but there is nothing at \/no\/keys$/],
    [['--cache-bytes', '2Q'], /^expected a number of bytes such as 512M or 2G for --cache-bytes but received "2Q"$/],
    [['--cache-bytes', '0'], /--cache-bytes but received "0"$/],
    [['--warm-bytes', 'few'], /--warm-bytes but received "few"$/],
    [['--allow-origin', 'a.example/x'], /^expected an origin such as https:\/\/app\.example for --allow-origin/],
    [['--log-level', 'loud'], /^expected one of silent, .* for --log-level but received "loud"$/],
    [['--nope'], /--nope.*see maskserve --help$/],
    [['--port'], /--port.*see maskserve --help$/],
    [['extra'], /extra.*see maskserve --help$/],
  ];
  for (const [argv, message] of mistakes) {
    it(`says in one line what is wrong with ${argv.join(' ')}`, () => {
      assert.throws(
        () => parse(argv),
        (error: Error) => {
          assert.ok(error instanceof ConfigError);
          assert.match(error.message, message);
          assert.doesNotMatch(error.message, /\n/);
          return true;
        },
      );
    });
  }

  it('keeps decoded masks in an eighth of the memory for resident tasks, or as told, or none', () => {
    const warmBytes = (...argv: string[]): number => {
      const command = parseConfig(argv, {});
      assert.ok(command.type === 'serve');
      return command.config.warmBytes;
    };
    assert.equal(warmBytes('--cache-bytes', '800M'), 100 * 2 ** 20);
    assert.equal(warmBytes('--cache-bytes', '800M', '--warm-bytes', '3M'), 3 * 2 ** 20);
    assert.equal(warmBytes('--warm-bytes', '0'), 0);
  });

  it('names the variable that is wrong', () => {
    assert.throws(() => parse([], { MASKSERVE_MAX_QUEUE: 'many' }), { message: /for MASKSERVE_MAX_QUEUE but/ });
  });

  it('documents every option in --help', () => {
    const command = parseConfig(['--help'], {});
    assert.ok(command.type === 'print');
    for (const option of [
      ...[
        'model',
        'host',
        'port',
        'store',
        'cache-bytes',
        'warm-bytes',
        'kv-bytes',
        'threads',
        'max-context',
        'max-running',
      ],
      ...['max-queue', 'max-body-bytes', 'max-mask-bytes', 'keys', 'allow-origin', 'default-task'],
      ...['request-timeout', 'drain-timeout', 'log-level', 'help', 'version'],
    ]) {
      assert.match(command.text, new RegExp(`--${option}[ \n]`));
    }
    const version = parseConfig(['-V'], {});
    assert.ok(version.type === 'print' && /^\d+\.\d+\.\d+/.test(version.text));
  });
});
