/** `maskctl complete PROMPT`: text from a task, as it is generated. */
import { text as readAll } from 'node:stream/consumers';
import type { Command } from 'commander';
import type { CompletionRequest, MaskServe, Usage } from '../../sdk/index.js';
import { connect } from '../connection.js';
import { UsageError } from '../usage-error.js';
import type { GlobalOptions } from '../global-options.js';
import { integer, number } from '../numbers.js';
import { printJson } from '../output.js';

interface CompleteOptions {
  readonly task?: string;
  readonly maxTokens: number;
  readonly temperature?: number;
  readonly topP?: number;
  readonly topK?: number;
  readonly seed?: number;
  readonly stop?: readonly string[];
  readonly stream: boolean;
  readonly verbose?: true;
}

const DEFAULT_MAX_TOKENS = 128;

export function addComplete(program: Command): void {
  program
    .command('complete')
    .summary('complete a prompt with a task')
    .description('Complete a prompt with a task. Text is printed as it is generated.')
    .argument('[prompt]', 'the text to go on with; "-", or nothing in a pipe, reads it from stdin')
    .option('--task <name>', "a task, or NAME@sha256:DIGEST for one of its versions (default: the server's)")
    .option('--max-tokens <n>', 'stop after this many tokens', integer(0), DEFAULT_MAX_TOKENS)
    .option('--temperature <t>', "0 takes the likeliest token each time (default: the server's, 1)", number(0, 100))
    .option('--top-p <p>', 'draw from the likeliest tokens that have this probability together', number(0, 1))
    .option('--top-k <k>', 'draw from this many likeliest tokens', integer(0))
    .option('--seed <n>', 'same seed, same text', integer(0))
    .option('--stop <text>', 'end before this text; may be repeated', (text, all: string[] = []) => [...all, text])
    .option('--no-stream', 'print the text when all of it is there')
    .option('--verbose', 'print token counts and speed on stderr')
    .addHelpText('after', EXAMPLES)
    .action(async (prompt: string | undefined, _options: object, command: Command) => {
      await complete(prompt, command.optsWithGlobals<CompleteOptions & GlobalOptions>());
    });
}

const EXAMPLES = `
Examples:
  $ maskctl complete 'La France est' --task french --temperature 0
  $ git diff | maskctl complete --task javascript --max-tokens 32 --stop '}'
  $ maskctl complete 'The' --seed 7 --json | jq -r '.choices[0].text'`;

async function complete(argument: string | undefined, options: CompleteOptions & GlobalOptions): Promise<void> {
  const request = requestOf(await readPrompt(argument), options);
  const client = connect(options);
  if (options.json) return printJson(await client.complete(request));
  const started = performance.now();
  const usage = options.stream ? await printStream(client, request) : await printWhole(client, request);
  if (options.verbose && usage) {
    const seconds = (performance.now() - started) / 1000;
    process.stderr.write(
      `${usage.prompt_tokens} prompt tokens, ${usage.completion_tokens} generated in ${seconds.toFixed(2)} s\n`,
    );
  }
}

async function readPrompt(argument: string | undefined): Promise<string> {
  if (argument !== undefined && argument !== '-') return argument;
  if (argument === undefined && process.stdin.isTTY) {
    throw new UsageError("expected a prompt: maskctl complete 'text to go on with' (or - for stdin)");
  }
  return readAll(process.stdin);
}

function requestOf(prompt: string, options: CompleteOptions): CompletionRequest {
  const { task, maxTokens, temperature, topP, topK, seed, stop } = options;
  return {
    prompt,
    max_tokens: maxTokens,
    ...(task === undefined ? {} : { task }),
    ...(temperature === undefined ? {} : { temperature }),
    ...(topP === undefined ? {} : { top_p: topP }),
    ...(topK === undefined ? {} : { top_k: topK }),
    ...(seed === undefined ? {} : { seed }),
    ...(stop === undefined ? {} : { stop }),
  };
}

async function printStream(client: MaskServe, request: CompletionRequest): Promise<Usage | undefined> {
  let usage: Usage | undefined;
  let text = '';
  try {
    for await (const chunk of client.stream({ ...request, stream_options: { include_usage: true } })) {
      text = chunk.choices[0]?.text || text;
      process.stdout.write(chunk.choices[0]?.text ?? '');
      usage = chunk.usage ?? usage;
    }
  } finally {
    if (text !== '') endLine(text);
  }
  return usage;
}

async function printWhole(client: MaskServe, request: CompletionRequest): Promise<Usage> {
  const { choices, usage } = await client.complete(request);
  const text = choices[0]?.text ?? '';
  process.stdout.write(text);
  endLine(text);
  return usage;
}

function endLine(text: string): void {
  if (!text.endsWith('\n')) process.stdout.write('\n');
}
