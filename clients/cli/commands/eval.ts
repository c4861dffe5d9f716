/** `maskctl eval`: perplexity of tasks on texts, through a server or in this process. */
import { basename } from 'node:path';
import type { Command } from 'commander';
import type { EvaluateResult } from '../../../server/engine/types.js';
import type { Source } from '../../../server/trainer/corpus.js';
import { connect } from '../connection.js';
import { UsageError } from '../usage-error.js';
import type { GlobalOptions } from '../global-options.js';
import type { ScoreOptions } from '../local-model.js';
import { parentOption } from '../mask-family.js';
import { integer } from '../numbers.js';
import { formatCount, printJson, printTable } from '../output.js';
import { type Progress, withProgress } from '../progress.js';
import { addTextOptions, WINDOW_TOKENS } from '../text-options.js';

interface EvalOptions extends ScoreOptions {
  readonly task: readonly string[];
  readonly data: readonly string[];
  readonly local?: true;
  readonly mask?: string;
  readonly parent?: string;
}

/** One line of the result; `data` names the text where there are several results. */
interface Evaluated extends EvaluateResult {
  readonly task: string;
  readonly data?: string;
}

export function addEval(program: Command): void {
  const command = program
    .command('eval')
    .summary('perplexity of tasks on texts')
    .description(
      `Score texts in windows of ${WINDOW_TOKENS} tokens and print tokens, mean negative log-likelihood (nats a token) and ` +
        'perplexity; of several tasks on several texts the matrix of perplexities. The server does the work, or with --local ' +
        'this process.',
    )
    .option('--task <names>', 'tasks, separated by commas; "dense" is the unmasked model', taskNames)
    .requiredOption('--data <file...>', 'text: .jsonl with {"text": …} lines, or plain text; each is scored by itself')
    .option('--windows <n>', 'score only the first windows', integer(1))
    .option('--local', 'without a server (--model, --mask, --threads and --backend imply it)')
    .option('--mask <file>', 'with --local: evaluate this mask file');
  command.addOption(parentOption('--mask'));
  addTextOptions(command)
    .addHelpText('after', EXAMPLES)
    .action(async (_options: object, command: Command) => {
      const { task, ...options } = command.optsWithGlobals<Partial<EvalOptions> & EvalOptions & GlobalOptions>();
      await evaluateAll({ ...options, task: task ?? tasksFor(options.mask) });
    });
}

const EXAMPLES = `
Examples:
  $ maskctl eval --task dense,general,french --data french.jsonl --windows 32
  $ maskctl eval --local --task dense,general,french,c --data french.jsonl c.jsonl english.jsonl
  $ maskctl eval --local --task french --data french.jsonl --json
  $ maskctl eval --local --model models/smollm2 --mask general.mask --data README.md --no-bos --separator 0`;

function taskNames(text: string): string[] {
  const names = text.split(',').map((name) => name.trim());
  if (names.every((name) => name !== '')) return names;
  throw new UsageError(`expected --task to be names separated by commas but received "${text}"`);
}

function tasksFor(mask: string | undefined): string[] {
  if (mask === undefined) throw new UsageError('expected --task NAME (or --mask FILE): what should be evaluated?');
  return [basename(mask).replace(/\.mask$/, '')];
}

async function evaluateAll(options: EvalOptions & GlobalOptions): Promise<void> {
  const { task, mask, data, json } = options;
  if (mask !== undefined && task.length > 1) {
    throw new UsageError('expected one --task beside --mask: the name to print for that file');
  }
  const { readSource } = await import('../../../server/trainer/corpus.js');
  const sources = data.map(readSource);
  const isLocal =
    options.local ??
    [options.model, mask, options.parent, options.threads, options.backend].some((option) => option !== undefined);
  const results = await withProgress('evaluating', (progress) =>
    isLocal ? runLocally(options, sources, progress) : runRemotely(options, sources, progress),
  );
  const [only] = results;
  if (!json && task.length > 1 && data.length > 1) printMatrix(task, data, results);
  else if (!json) printForPeople(results);
  else if (only && results.length === 1) printJson(resultOf(only));
  else printJson(results);
}

async function runLocally(options: EvalOptions, sources: readonly Source[], progress: Progress): Promise<Evaluated[]> {
  const { openModel, openTask, evaluateLocally } = await import('../local-model.js');
  const model = openModel(options);
  const results: Evaluated[] = [];
  try {
    for (const name of options.task) {
      const task = await openTask(model, name, options.mask, options.parent);
      try {
        for (const { pattern, documents } of sources) {
          const result = naming(sources, pattern, () => evaluateLocally(model, task, documents, options, progress));
          results.push({ task: name, data: pattern, ...result });
        }
      } finally {
        task.dispose();
      }
    }
  } finally {
    model.dispose();
  }
  return results;
}

/** Among several texts, says which one could not be scored. */
function naming<T>(sources: readonly Source[], pattern: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    throw sources.length === 1 ? cause : new Error(`${pattern}: ${(cause as Error).message}`, { cause });
  }
}

async function runRemotely(
  options: EvalOptions & GlobalOptions,
  sources: readonly Source[],
  progress: Progress,
): Promise<Evaluated[]> {
  const client = connect(options);
  const { windows, separator, bos } = options;
  const results: Evaluated[] = [];
  for (const task of options.task) {
    for (const { pattern, documents } of sources) {
      progress.update(results.length, options.task.length * sources.length, `evaluating ${task}`);
      const result = await client.evaluate({
        task,
        documents,
        bos,
        ...(windows === undefined ? {} : { windows }),
        ...(separator === undefined ? {} : { separator }),
      });
      results.push({ task, data: pattern, tokens: result.tokens, nll: result.nll, ppl: result.ppl });
    }
  }
  return results;
}

function resultOf({ task, tokens, nll, ppl }: Evaluated): Evaluated {
  return { task, tokens, nll, ppl };
}

/** Perplexities, a row for each task and a column for each text (MaskLLM's Table 4). `results`: text after text, task after task. */
function printMatrix(tasks: readonly string[], data: readonly string[], results: readonly Evaluated[]): void {
  const columns = [...textNames(data), 'AVERAGE'];
  const rows = tasks.map((task, i) => {
    const perplexities = results.slice(i * data.length, (i + 1) * data.length).map(({ ppl }) => ppl);
    const average = perplexities.reduce((sum, ppl) => sum + ppl, 0) / perplexities.length;
    return [task, ...[...perplexities, average].map((ppl) => ppl.toFixed(2))];
  });
  printTable(['PPL', ...columns], rows, columns);
}

/** File names without folder and ending, where that tells them apart. */
function textNames(data: readonly string[]): readonly string[] {
  const names = data.map((pattern) => basename(pattern).replace(/(\.valid)?\.(jsonl|txt|md)(\.gz)?$/, ''));
  return new Set(names).size === names.length ? names : data;
}

function printForPeople(results: readonly Evaluated[]): void {
  printTable(
    ['TASK', 'DATA', 'TOKENS', 'NLL', 'PPL'],
    results.map(({ task, data, tokens, nll, ppl }) => [
      task,
      data ?? '',
      formatCount(tokens),
      nll.toFixed(4),
      ppl.toFixed(2),
    ]),
    ['TOKENS', 'NLL', 'PPL'],
  );
}
