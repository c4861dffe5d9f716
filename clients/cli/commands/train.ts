/** `maskctl train`: learns a task's 2:4 mask from text, on frozen weights. */
import { createHash } from 'node:crypto';
import type { Command } from 'commander';
import { ContainerReader } from '../../../codec/decode.js';
import { checkOwnTaskName } from '../../../server/store/task-name.js';
import type { TrainFinished, TrainMethod, TrainRequest } from '../../../server/trainer/types.js';
import { curlLine } from '../connection.js';
import { UsageError } from '../usage-error.js';
import type { GlobalOptions } from '../global-options.js';
import { needsJson, needsText, parentOption } from '../mask-family.js';
import { checkWritable, writeNewFile } from '../new-file.js';
import { formatCount, printFields, printJson, printLine } from '../output.js';
import { checkPlot } from '../pictures/run-curves.js';
import { addRunControl, checkpointDirectory, reportedRun, resumeCommand, type RunControl } from '../reported-run.js';
import {
  addServerTraining,
  isAboutJobs,
  manageJobs,
  refuseLocalOptions,
  trainOnServer,
  type ServerTrainingOptions,
} from '../server-training.js';
import { addTeacherOptions, serverTeacherOf, teacherOf, type TeacherOptions } from '../teacher-options.js';
import { addTextOptions, type TextOptions } from '../text-options.js';
import { addMaskTrainingOptions, type GivenConstants, maskTrainingSettings } from '../training-options.js';
import { duration } from '../training-report.js';
import { printResult } from '../training-result.js';

interface TrainOptions extends TextOptions, GivenConstants, RunControl, ServerTrainingOptions, TeacherOptions {
  readonly task?: string;
  readonly method: TrainMethod;
  readonly from?: string;
  readonly parent?: string;
  readonly flat?: true;
  readonly data: readonly string[];
  readonly guard: readonly string[];
  readonly local?: true;
  readonly out?: string;
}

type GivenOptions = TrainOptions & GlobalOptions;
/** Of a run, wherever it runs. */
type Options = GivenOptions & { readonly task: string };

export function addTrain(program: Command): void {
  const command = program
    .command('train')
    .summary("learn a task's mask from text")
    .description(
      'Learn which two of every four weights a task keeps, on frozen weights (MaskLLM, arXiv 2409.17481). ' +
        'A twentieth of the documents is held out; the mask that scores best on it is the result.',
    )
    .option('--task <name>', 'the name that clients will ask for', taskName)
    .option(
      '--data <glob...>',
      'text: files, folders or globs of plain text, .jsonl with {"text": …} lines, or .gz; each is sampled alike',
      [],
    )
    .option(
      '--from <task>',
      'transfer: start from the mask of this task (with --local: a file, or a task that comes with the model) and be stored as its child, a patch of it',
    )
    .addOption(parentOption("--from's file"))
    .option('--flat', 'with --local: write what decodes by itself, without parent and weights, and larger')
    .option(
      '--guard <glob...>',
      'text of other domains: kept decent by a share of each step (--guard-share), and reported',
      [],
    )
    .option('--local', 'train in this process; otherwise the server trains, and publishes')
    .option('-o, --out <file>', 'with --local: write the mask to this file');
  addServerTraining(command);
  addRunControl(command, 'the mask');
  addMaskTrainingOptions(command);
  addTeacherOptions(command);
  addTextOptions(command)
    .addHelpText('after', EXAMPLES)
    .action(async (_options: object, command: Command) => {
      const options = command.optsWithGlobals<GivenOptions>();
      await checkPlot(options);
      if (isAboutJobs(options)) await manageJobs(options);
      else await train(requireText(options), command);
    });
}

const EXAMPLES = `
Examples:
  $ maskctl train --task c --from general --data '/usr/include/**/*.h' --steps 100
  $ maskctl train --list
  $ maskctl train --attach 0123456789abcdef --plot run.png
  $ maskctl train --task docs --data 'docs/**/*.md' --local --out docs.mask
  $ maskctl train --task french --from general --data french.jsonl --guard english.jsonl --local --out french.mask
  $ maskctl train --task c --from general --data '/usr/include/**/*.h' --steps 100 --local --out c.mask --json
  $ maskctl train --task french --from general --data french.jsonl --tune-teacher --local --out french.mask
  $ maskctl train --task french --from general --data french.jsonl --teacher my-lora/ --local --out french.mask
  $ maskctl train --task paper --method gumbel --data text/ --steps 2000 --local --out paper.mask
  $ maskctl train --task wide --pattern 4:8 --data text/ --local --out wide.mask`;

function taskName(task: string): string {
  checkOwnTaskName(task);
  return task;
}

async function train(options: Options, command: Command): Promise<void> {
  if (!options.local) {
    refuseLocalOptions(command);
    if (options.pattern !== undefined && options.pattern !== '2:4') {
      throw new UsageError(`expected --local beside --pattern ${options.pattern}: servers serve 2:4 masks only`);
    }
    const teacher = serverTeacherOf(options);
    return trainOnServer({ ...(await readRequest(options)), ...teacher }, options);
  }
  const out = await outputFile(options);
  const teacher = teacherOf(options);
  const request = await readRequest(options);
  const { trainLocally, removeCheckpoint } = await import('../local-training.js');
  const { container, finished } = await reportedRun(options, out, (hooks, onEvent) =>
    trainLocally(options, request, { ...hooks, ...teacher }, onEvent),
  );
  if (!options.json) printResult(finished);
  if (!finished.publishable) refuse(finished, options, out);
  await writeNewFile(out, [container]);
  removeCheckpoint(checkpointDirectory(options, out));
  show(container, finished, out, options);
}

/** A run needs a name and text; looking after jobs does not. */
function requireText(options: GivenOptions): Options {
  const { task, data } = options;
  if (task === undefined) throw new UsageError("required option '--task <name>' not specified");
  if (data.length === 0) throw new UsageError("required option '--data <glob...>' not specified");
  return { ...options, task };
}

/** All that can be refused before the model is loaded. */
async function outputFile({ out }: Options): Promise<string> {
  if (out === undefined) {
    throw new UsageError(
      'expected --out FILE beside --local: this training runs in the command itself and writes a mask file, which "maskctl push" publishes',
    );
  }
  await checkWritable(out);
  return out;
}

async function readRequest(options: Options): Promise<TrainRequest> {
  const { readSources } = await import('../training-text.js');
  const { task, from, data, guard, force } = options;
  return {
    task,
    ...(from === undefined ? {} : { from }),
    sources: readSources(data),
    guards: readSources(guard),
    settings: maskTrainingSettings(options, from !== undefined),
    force: force === true,
  };
}

function refuse({ heldOut }: TrainFinished, options: RunControl, out: string): never {
  const own = heldOut.filter(({ guard }) => !guard);
  const [mask, prior] = [mean(own.map((row) => row.mask)), mean(own.map((row) => row.prior))];
  throw new Error(
    `the mask loses to its prior on held-out text (perplexity ${mask.toFixed(2)} against ${prior.toFixed(2)}) and was not written: train on more text, with less --travel, or from another prior; to write it all the same: ${resumeCommand(options, out, '--force')}`,
  );
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function show(container: Uint8Array, finished: TrainFinished, out: string, options: Options): void {
  const { summary } = new ContainerReader(container);
  const digest = createHash('sha256').update(container).digest('hex');
  const { fileBytes: bytes, content: contentDigest, parent = null } = summary;
  const needs = needsJson(summary.needs);
  if (options.json) return printJson({ type: 'written', file: out, digest, contentDigest, parent, needs, bytes });
  printLine('');
  printFields([
    ['wrote', out],
    ['digest', digest],
    ...(parent === null ? [] : [['parent', parent] as const]),
    ['needs', needsText(needs, options.from)],
    ['bytes', `${formatCount(bytes)} (${summary.bitsPerParameter.toFixed(4)} bit per parameter)`],
    ['took', duration(finished.seconds)],
  ]);
  const { n, m } = summary;
  if (n === 2 && m === 4) {
    printLine(`try it:\n  maskctl push ${options.task} ${out}\n  ${curlLine(options, options.task)}`);
  } else {
    printLine(
      `servers serve 2:4 alone; score this ${n}:${m} mask by:\n  maskctl eval --local --mask ${out} --data FILE`,
    );
  }
}
