/** `maskctl prune`: a one-shot 2:4 mask of a frozen model, into a file or published under a task's name. */
import { createHash } from 'node:crypto';
import { type Command, Option } from 'commander';
import { ContainerReader } from '../../../codec/decode.js';
import type { OneShotMethod } from '../../../server/trainer/one-shot.js';
import { checkOwnTaskName } from '../../../server/store/task-name.js';
import { checkServerBase, connect, curlLine } from '../connection.js';
import { UsageError } from '../usage-error.js';
import type { GlobalOptions } from '../global-options.js';
import type { OneShotOptions } from '../local-model.js';
import { needsJson, type NeedsJson, needsText } from '../mask-family.js';
import { checkNewDirectory } from '../new-directory.js';
import { checkWritable, writeNewFile } from '../new-file.js';
import { integer, number } from '../numbers.js';
import { formatCount, printFields, printJson, printLine } from '../output.js';
import { withProgress } from '../progress.js';
import { addTextOptions, WINDOW_TOKENS } from '../text-options.js';

const METHODS: readonly OneShotMethod[] = ['magnitude', 'wanda', 'sparsegpt'];

interface PruneOptions extends OneShotOptions {
  readonly out?: string;
  readonly task?: string;
  readonly update?: string;
}

/** What --json prints. */
interface Pruned {
  readonly method: OneShotMethod;
  readonly file: string | null;
  readonly task: string | null;
  readonly digest: string;
  readonly contentDigest: string;
  readonly baseDigest: string;
  /** What decoding takes beside the file. */
  readonly needs: NeedsJson;
  readonly parameters: number;
  readonly bytes: number;
  readonly bitsPerParameter: number;
}

export function addPrune(program: Command): void {
  const command = program
    .command('prune')
    .summary('make a one-shot 2:4 mask from a model and some text')
    .description(
      'Choose which two of every four weights a task keeps, in one pass over some text. ' +
        'The model stays as it is; the mask goes to a file, to the server, or both, or with --update into a new model.',
    )
    .addOption(new Option('--method <method>', 'how weights are ranked').choices(METHODS).makeOptionMandatory())
    .option(
      '--data <glob...>',
      'calibration text: files, folders or globs; each is sampled alike (not for magnitude)',
      [],
    )
    .option('--samples <n>', 'calibration windows', integer(1), 256)
    .option('--seq <n>', 'tokens of a window', integer(1, WINDOW_TOKENS), WINDOW_TOKENS)
    .option('--seed <n>', 'which windows are drawn: same seed, same mask', integer(0), 0)
    .option('--damp <share>', "sparsegpt: dampening, a share of the Hessian's mean diagonal", number(0, 1e6), 0.01);
  addTextOptions(command)
    .option('-o, --out <file>', 'write the mask to this file')
    .option('--task <name>', 'publish the mask to the server under this name')
    .option(
      '--update <dir>',
      "sparsegpt: make this model directory instead, of the weights that SparseGPT updates for its mask (Table 4); maskctl prepare --steps 0 does the same on a training run's text",
    )
    .addHelpText('after', EXAMPLES)
    .action(async (_options: object, command: Command) => {
      await prune(command.optsWithGlobals<PruneOptions & GlobalOptions>());
    });
}

const EXAMPLES = `
Examples:
  $ maskctl prune --method magnitude --out general.mask
  $ maskctl prune --method sparsegpt --data 'docs/**/*.md' --data notes.jsonl --out docs.mask
  $ maskctl prune --method wanda --data 'src/**/*.ts' --task typescript
  $ maskctl prune --method sparsegpt --data notes.jsonl --update models/updated`;

async function prune(options: PruneOptions & GlobalOptions): Promise<void> {
  await check(options);
  if (options.update !== undefined) return pruneAndUpdate(options, options.update);
  const { openModel, oneShotContainer } = await import('../local-model.js');
  const model = openModel(options);
  const client = connect(options);
  let container: Uint8Array;
  try {
    if (options.task !== undefined) await checkServerBase(client, model.info.base, options);
    container = await withProgress('reading text', (progress) => oneShotContainer(model, options, progress));
  } finally {
    model.dispose();
  }
  if (options.out !== undefined) await writeNewFile(options.out, [container]);
  if (options.task !== undefined) await client.masks.put(options.task, container);
  const pruned = describe(container, options);
  if (options.json) printJson(pruned);
  else printForPeople(pruned, options);
}

async function pruneAndUpdate(options: PruneOptions & GlobalOptions, directory: string): Promise<void> {
  const { openModel, updatedModel } = await import('../local-model.js');
  const model = openModel(options);
  try {
    const { base, general } = await withProgress('reading text', (progress) =>
      updatedModel(model, options, directory, progress),
    );
    if (options.json) return printJson({ method: options.method, directory, base, general });
    printFields([
      ['wrote', directory],
      ['base', base],
      ['general', general],
    ]);
    printLine(`try it:\n  maskserve --model ${directory}`);
  } finally {
    model.dispose();
  }
}

/** All that can be refused before minutes of work. */
async function check({ method, data, out, task, update }: PruneOptions): Promise<void> {
  if (update !== undefined) checkUpdate(update, method, out ?? task);
  else if (out === undefined && task === undefined) {
    throw new UsageError('expected --out FILE, --task NAME or --update DIR: where should the mask go?');
  }
  if (method !== 'magnitude' && data.length === 0) {
    throw new UsageError(`expected --data: ${method} looks at what text does to the model (magnitude needs none)`);
  }
  if (task !== undefined) checkOwnTaskName(task);
  if (out !== undefined) await checkWritable(out);
}

/** `other`: where the mask is to go besides. */
function checkUpdate(directory: string, method: OneShotMethod, other?: string): void {
  if (method !== 'sparsegpt') {
    throw new UsageError(`expected --method sparsegpt beside --update: ${method} changes no weights`);
  }
  if (other !== undefined) {
    throw new UsageError(
      'expected --update without --out and --task: its mask is for the updated weights, and goes with them',
    );
  }
  checkNewDirectory(directory, '--update');
}

function describe(container: Uint8Array, { method, out, task }: PruneOptions): Pruned {
  const { content, base, needs, parameters, fileBytes, bitsPerParameter } = new ContainerReader(container).summary;
  return {
    method,
    file: out ?? null,
    task: task ?? null,
    digest: createHash('sha256').update(container).digest('hex'),
    contentDigest: content,
    baseDigest: base,
    needs: needsJson(needs),
    parameters,
    bytes: fileBytes,
    bitsPerParameter,
  };
}

function printForPeople(pruned: Pruned, options: PruneOptions & GlobalOptions): void {
  const { file, task, bytes, bitsPerParameter } = pruned;
  printFields([
    ...(file === null ? [] : [['wrote', file] as const]),
    ...(task === null ? [] : [['published', `${task} at ${options.server}`] as const]),
    ['digest', pruned.digest],
    ['needs', needsText(pruned.needs)],
    ['bytes', `${formatCount(bytes)} (${bitsPerParameter.toFixed(4)} bit per parameter)`],
  ]);
  printLine('try it:');
  if (task !== null) printLine(`  ${curlLine(options, task)}`);
  else printLine(`  maskctl push my-task ${file}`);
}
