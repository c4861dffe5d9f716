/** `maskctl prepare`: mends a model once, for all tasks, so that it is good under a 2:4 mask; a new model directory (design §10). */
import { type Command, Option } from 'commander';
import { PREPARE_DEFAULTS, REFINE_ROUNDS } from '../../../server/trainer/defaults.js';
import { mixThenLm, type LossPhase, parseLossSchedule, totalSteps } from '../../../server/trainer/loss-schedule.js';
import type { PrepareFinished, PrepareRequest, PrepareSettings } from '../../../server/trainer/prepare-types.js';
import { UsageError } from '../usage-error.js';
import type { GlobalOptions } from '../global-options.js';
import { parentOption } from '../mask-family.js';
import { checkNewDirectory } from '../new-directory.js';
import { integer, number } from '../numbers.js';
import { printFields, printJson, printLine, printTable } from '../output.js';
import { checkPlot } from '../pictures/run-curves.js';
import { addRunControl, checkpointDirectory, reportedRun, resumeCommand, type RunControl } from '../reported-run.js';
import { addTeacherOptions, teacherOf, type TeacherOptions } from '../teacher-options.js';
import { addTextOptions, type TextOptions } from '../text-options.js';
import { duration, relative } from '../training-report.js';

type Constants = Omit<PrepareSettings, 'phases' | 'learningRate' | 'separator' | 'bos'>;

interface PrepareOptions extends TextOptions, Constants, RunControl, TeacherOptions {
  readonly out: string;
  readonly data: readonly string[];
  readonly holdOut: readonly string[];
  readonly mask?: string;
  readonly parent?: string;
  readonly loss?: string;
  readonly steps?: number;
  readonly lr: number;
}

type Options = PrepareOptions & GlobalOptions;

const POSITIVE = number(Number.MIN_VALUE, 1e9);

export function addPrepare(program: Command): void {
  const command = program
    .command('prepare')
    .summary('mend a model once, so that it is good under a 2:4 mask')
    .description(
      "Make a base for masks: SparseGPT's 2:4 mask and weight update, then the kept weights are tuned on the text that will be served, towards the original model (KL) and the text itself (LM). " +
        'Pruned positions keep their original values, so that tasks can swap them in. The result is a model directory of its own, with its general mask.',
    )
    .requiredOption('-o, --out <dir>', 'the model directory to make')
    .requiredOption(
      '--data <glob...>',
      'text of all that will be served: files, folders or globs; each is sampled alike',
    )
    .option(
      '--hold-out <glob...>',
      'text that is not trained on, scored before and after: what preparing costs elsewhere',
      [],
    )
    .option(
      '--mask <task>',
      'tune the weights that this mask keeps (a file, or a task that comes with the model), from their original values (Table 3)',
    )
    .addOption(parentOption('--mask'))
    .option(
      '--loss <schedule>',
      `kl (to the original), lm (next token), mix or a share of kl, with their steps, e.g. kl:100,lm:60 (default: ${described(PREPARE_DEFAULTS.phases)})`,
    )
    .option(
      '--steps <n>',
      `optimizer steps, where --loss does not say; 0: SparseGPT's update alone (Table 4) (default: ${totalSteps(PREPARE_DEFAULTS.phases)})`,
      integer(0),
    );
  addConstants(command);
  addTeacherOptions(command);
  addRunControl(command, 'the model');
  addTextOptions(command)
    .addHelpText('after', EXAMPLES)
    .action(async (_options: object, command: Command) => {
      await prepare(command.optsWithGlobals<Options>());
    });
}

const EXAMPLES = `
Examples:
  $ maskctl prepare --model models/smollm2 --out models/smollm2-24 --data french.jsonl python.jsonl --hold-out english.jsonl
  $ maskctl prepare --model models/smollm2 --out models/kl --data 'text/*.jsonl' --loss kl --steps 100
  $ maskctl prepare --model models/smollm2 --teacher models/smollm2-tuned --out models/tuned-24 --data text/
  $ maskctl prepare --mask general --out models/tuned --data text/ --loss lm --steps 200`;

function addConstants(command: Command): void {
  const defaults = PREPARE_DEFAULTS;
  command
    .option('--lr <rate>', 'peak learning rate', POSITIVE, defaults.learningRate)
    .option('--warmup <steps>', 'steps of linear warm-up', integer(0), defaults.warmup)
    .option('--floor <share>', 'share of the peak that the cosine ends at', number(0, 1), defaults.floor)
    .option('--batch <n>', 'sequences a step', integer(1, 65536), defaults.batch)
    .option('--seq <n>', 'tokens of a sequence', integer(8, 1 << 20), defaults.seq)
    .option('--seed <n>', 'batches and split: same seed, same weights', integer(0, 2 ** 32 - 1), defaults.seed)
    .option('--beta1 <b>', 'AdamW: decay of the first moment', number(0, 0.999999), defaults.beta1)
    .option('--beta2 <b>', 'AdamW: decay of the second moment', number(0, 0.999999), defaults.beta2)
    .option('--epsilon <e>', 'AdamW: ε', POSITIVE, defaults.epsilon)
    .option('--weight-decay <w>', 'AdamW: decay of the kept weights', number(0, 1), defaults.weightDecay)
    .option('--clip <norm>', 'largest joint norm of the gradients; 0: none', number(0, 1e9), defaults.clip)
    .addOption(
      new Option(
        '--refine [rounds]',
        "refine SparseGPT's mask by swaps that lower each layer's output error, at most so often over each row, and update the weights for that mask (default: none)",
      )
        .argParser(integer(0, 1000))
        .preset(String(REFINE_ROUNDS)),
    )
    .option(
      '--keep-dense <names...>',
      'layers left as they are: last:1, first:2, an index, a name such as model.layers.5, or a matrix such as model.layers.5.mlp.down_proj (Table 15)',
      [...defaults.keepDense],
    )
    .option(
      '--evaluate-every <steps>',
      'steps between looks at held-out text; 0: only at the end',
      integer(0),
      defaults.evaluateEvery,
    )
    .option(
      '--evaluate-windows <n>',
      'windows of --seq held-out tokens that a look scores, for each text',
      integer(1),
      defaults.evaluateWindows,
    );
}

async function prepare(options: Options): Promise<void> {
  const { out } = options;
  checkNewDirectory(out);
  await checkPlot(options);
  const teacher = teacherOf(options);
  const request = await readRequest(options);
  const { prepareLocally, removeCheckpoint } = await import('../local-training.js');
  const finished = await reportedRun(options, out, (hooks, onEvent) =>
    prepareLocally(options, request, { ...hooks, ...teacher }, onEvent),
  );
  if (!options.json) printResult(finished);
  if (!finished.publishable) {
    throw new Error(
      `the prepared model is worse than its start on held-out text and was not written: use more text or a lower --lr; to write it all the same: ${resumeCommand(options, out, '--force')}`,
    );
  }
  removeCheckpoint(checkpointDirectory(options, out));
  if (options.json) printJson({ type: 'written', directory: out, base: finished.base, general: finished.general });
  else show(finished, options);
}

async function readRequest(options: Options): Promise<PrepareRequest> {
  const settings = settingsOf(options);
  const { readSources } = await import('../training-text.js');
  return {
    sources: readSources(options.data),
    heldOut: readSources(options.holdOut),
    settings,
    force: options.force === true,
  };
}

function settingsOf(options: Options): PrepareSettings {
  const { batch, seq, seed, warmup, floor, beta1, beta2, epsilon, weightDecay, clip } = options;
  const { refine, keepDense, evaluateEvery, evaluateWindows, separator, bos } = options;
  return {
    phases: phasesOf(options),
    learningRate: options.lr,
    ...{ batch, seq, seed, warmup, floor, beta1, beta2, epsilon, weightDecay, clip },
    ...{ keepDense, evaluateEvery, evaluateWindows, bos },
    ...(refine === undefined ? {} : { refine }),
    ...(separator === undefined ? {} : { separator }),
  };
}

function phasesOf({ loss, steps }: Options): readonly LossPhase[] {
  if (loss === undefined) return steps === undefined ? PREPARE_DEFAULTS.phases : mixThenLm(steps);
  try {
    return parseLossSchedule(loss, steps);
  } catch (cause) {
    throw new UsageError((cause as Error).message, { cause });
  }
}

/** `kl:100,lm:60` */
function described(phases: readonly LossPhase[]): string {
  const names = new Map([
    [0, 'lm'],
    [0.5, 'mix'],
    [1, 'kl'],
  ]);
  return phases.map(({ klWeight, steps }) => `${names.get(klWeight) ?? klWeight}:${steps}`).join(',');
}

function show({ base, general, seconds }: PrepareFinished, { out }: Options): void {
  printLine('');
  printFields([
    ['wrote', out],
    ['base', base],
    ['general', general],
    ['took', duration(seconds)],
  ]);
  printLine(
    `try it:\n  maskserve --model ${out}\n  maskctl train --model ${out} --task my-task --from general --data my-text/ --local --out my-task.mask`,
  );
}

/** Perplexity on held-out text. */
function printResult({ heldOut }: PrepareFinished): void {
  printLine('');
  printTable(
    ['HELD-OUT TEXT', 'ORIGINAL', 'START', 'PREPARED', '', 'WITHOUT MASK'],
    heldOut.map(({ source, guard, dense, start, prepared, unmasked }) => [
      guard ? `${source} (not trained on)` : source,
      ...[dense, start, prepared].map((perplexity) => perplexity.toFixed(2)),
      relative(prepared, dense),
      unmasked.toFixed(2),
    ]),
    ['ORIGINAL', 'START', 'PREPARED', '', 'WITHOUT MASK'],
  );
}
