#!/usr/bin/env node
/** The command `maskserve`: options, log, server, signals. */
import { destination, pino, type Logger } from 'pino';
import { parseConfig, type Config } from './config.js';
import { ConfigError } from './option-values.js';
import type { RunningServer } from './serve.js';
import { DENSE_TASK } from './store/task-name.js';

const USAGE_EXIT = 2;
const FAILURE_EXIT = 1;
const STDERR = 2;
/** Nothing that we log holds these; should a library's error ever do, they still stay out. */
const SECRETS = [
  'authorization',
  'headers.authorization',
  'req.headers.authorization',
  'err.headers.authorization',
  'body',
  'prompt',
];

await main().catch((error: unknown) => {
  process.stderr.write(`maskserve: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(error instanceof ConfigError ? USAGE_EXIT : FAILURE_EXIT);
});

async function main(): Promise<void> {
  const command = parseConfig(process.argv.slice(2), process.env);
  if (command.type === 'print') {
    console.log(command.text);
    return;
  }
  const { config } = command;
  const log = pino({ level: config.logLevel, base: null, redact: SECRETS }, destination({ dest: STDERR, sync: true }));
  // Only now: without its native kernels this import fails, and says so in one line.
  const { serve } = await import('./serve.js');
  const server = await serve(config, log, { onFatal: (error) => die(error, log) });
  stopOnSignals(server, config, log);
  console.log(await greeting(server, config));
}

function die(error: Error, log: Logger): void {
  log.fatal({ err: error });
  process.stderr.write(`maskserve: ${error.message}\n`);
  process.exit(FAILURE_EXIT);
}

/** The first signal drains; the second ends the process at once. */
function stopOnSignals(server: RunningServer, config: Config, log: Logger): void {
  let stopping = false;
  const stop = (signal: NodeJS.Signals): void => {
    if (stopping) process.exit(FAILURE_EXIT);
    stopping = true;
    log.info(`${signal}: draining for at most ${config.drainTimeoutMs / 1000} s; a second signal ends at once`);
    server.stop(config.drainTimeoutMs).then(
      () => process.exit(0),
      (error: unknown) => die(error as Error, log),
    );
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
}

async function greeting({ url, model, registry }: RunningServer, config: Config): Promise<string> {
  const tasks = (await registry.list()).map((record) => record.task);
  const task = tasks.includes('french') ? 'french' : (tasks[0] ?? DENSE_TASK);
  const key = config.keysFile === undefined ? '' : ` -H "Authorization: Bearer $MASKSERVE_API_KEY"`;
  const prompt = task === 'french' ? 'La France est' : 'The';
  return `maskserve: ${model.name} ready at ${url} (tasks: ${[DENSE_TASK, ...tasks].join(', ')})
try it:
  curl ${url}/v1/completions -H 'Content-Type: application/json' -H 'X-Task: ${task}'${key} -d '{"prompt": "${prompt}", "max_tokens": 32, "temperature": 0}'`;
}
