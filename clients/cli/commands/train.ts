/** `maskctl train`: learns a task's 2:4 mask from text, on frozen weights. */
import { createHash } from 'node:crypto';
import type { Command } from 'commander';
import { ContainerReader } from '../../../codec/decode.js';
import { checkOwnTaskName } from '../../../server/store/task-name.js';
import type { TrainFinished, TrainMethod, TrainRequest } from '../../../server/trainer/types.js';
import { curlLine } from '../connection.js';
import { UsageError } from '../failure.js';
import type { GlobalOptions } from '../global-options.js';
import { checkWritable, writeNewFile } from '../new-file.js';
import { integer, number } from '../numbers.js';
import { formatCount, printFields, printJson, printLine, printTable } from '../output.js';
import { withProgress } from '../progress.js';
import { sameCommand, Stopper } from '../stoppable.js';
import { addTextOptions, type TextOptions } from '../text-options.js';
import { addMaskTrainingOptions, type GivenConstants, maskTrainingSettings } from '../training-options.js';
import { duration, percent, relative, TrainingReport } from '../training-report.js';

interface TrainOptions extends TextOptions, GivenConstants {
  readonly task: string;
  readonly method: TrainMethod;
  readonly from?: string;
  readonly data: readonly string[];
  readonly guard: readonly string[];
  readonly local?: true;
  readonly out?: string;
  readonly force?: true;
  readonly logEvery: number;
  readonly checkpoint?: string;
  readonly checkpointEvery: number;
  readonly resume?: string;
  readonly activationBytes?: number;
}

type Options = TrainOptions & GlobalOptions;

export function addTrain(program: Command): void {
  const command = program
    .command('train')
    .summary("learn a task's mask from text")
    .description(
      'Learn which two of every four weights a task keeps, on frozen weights (MaskLLM, arXiv 2409.17481). ' +
        'A twentieth of the documents is held out; the mask that scores best on it is the result.',
    )
    .requiredOption('--task <name>', 'the name that clients will ask for', taskName)
    .requiredOption(
      '--data <glob...>',
      'text: files, folders or globs of plain text, .jsonl with {"text": …} lines, or .gz; each is sampled alike',
    )
    .option(
      '--from <task>',
      'transfer: start from this mask (a file, or a task that comes with the model) and be stored as its child',
    )
    .option('--guard <glob...>', 'text of other domains, looked at and reported, never trained on', [])
    .option('--local', 'train in this process')
    .option('-o, --out <file>', 'with --local: write the mask to this file')
    .option('--force', 'write the mask even if it loses to its prior on held-out text')
    .option('--log-every <steps>', 'steps between two lines, where no terminal shows a bar', integer(1), 10)
    .option('--checkpoint <dir>', 'where the state of the run is kept (default: the --out file with .checkpoint)')
    .option('--checkpoint-every <steps>', 'steps between two checkpoints; 0: only when stopped', integer(0), 50)
    .option(
      '--resume <dir>',
      'go on from this checkpoint, with the same options and text: bit for bit what an unstopped run computes',
    )
    .option(
      '--activation-bytes <n>',
      'activations kept at most; above it layers are recomputed, with the same result',
      number(0, 2 ** 50),
    );
  addMaskTrainingOptions(command);
  addTextOptions(command)
    .addHelpText('after', EXAMPLES)
    .action(async (_options: object, command: Command) => {
      await train(command.optsWithGlobals<Options>());
    });
}

const EXAMPLES = `
Examples:
  $ maskctl train --task docs --data 'docs/**/*.md' --local --out docs.mask
  $ maskctl train --task french --from general --data french.jsonl --guard english.jsonl --local --out french.mask
  $ maskctl train --task c --from general --data '/usr/include/**/*.h' --steps 100 --local --out c.mask --json
  $ maskctl train --task paper --method gumbel --data text/ --steps 2000 --local --out paper.mask`;

function taskName(task: string): string {
  checkOwnTaskName(task);
  return task;
}

async function train(options: Options): Promise<void> {
  const out = await outputFile(options);
  const directory = options.resume ?? options.checkpoint ?? `${out}.checkpoint`;
  const request = await readRequest(options);
  const { trainLocally, isStopped, removeCheckpoint } = await import('../local-training.js');
  const report = new TrainingReport({ json: options.json === true, logEvery: options.logEvery });
  const stopper = new Stopper(() => {
    report.end();
    process.stderr.write('stopping after this step; again to stop at once\n');
  });
  try {
    const { container, finished } = await withProgress('reading text', (progress) =>
      trainLocally(
        options,
        {
          request,
          checkpoint: { directory, every: options.checkpointEvery, resume: options.resume !== undefined },
          signal: stopper.signal,
          ...(options.activationBytes === undefined ? {} : { activationBytes: options.activationBytes }),
          onEvent: (event) => {
            if (event.type === 'started') {
              progress.end();
              stopper.listen();
            }
            if (event.type === 'finished') report.end();
            report.show(event);
          },
        },
        progress,
      ),
    );
    if (!finished.publishable) refuse(finished, directory);
    await writeNewFile(out, [container]);
    removeCheckpoint(directory);
    show(container, finished, out, options);
  } catch (error) {
    report.end();
    if (!isStopped(error)) throw error;
    process.stderr.write(`maskctl: ${error.message}; go on with:\n  ${sameCommand('--resume', directory)}\n`);
    process.exit(stopper.exitCode);
  } finally {
    stopper.dispose();
  }
}

/** All that can be refused before the model is loaded. */
async function outputFile({ local, out }: Options): Promise<string> {
  if (!local || out === undefined) {
    throw new UsageError(
      'expected --local and --out FILE: this training runs in the command itself and writes a mask file, which "maskctl push" publishes',
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

function refuse({ heldOut }: TrainFinished, directory: string): never {
  const own = heldOut.filter(({ guard }) => !guard);
  const [mask, prior] = [mean(own.map((row) => row.mask)), mean(own.map((row) => row.prior))];
  throw new Error(
    `the mask loses to its prior on held-out text (perplexity ${mask.toFixed(2)} against ${prior.toFixed(2)}) and was not written: train on more text, with less --travel, or from another prior; to write it all the same: ${sameCommand('--resume', directory, '--force')}`,
  );
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function show(container: Uint8Array, finished: TrainFinished, out: string, options: Options): void {
  const { summary } = new ContainerReader(container);
  const digest = createHash('sha256').update(container).digest('hex');
  const { fileBytes: bytes, content: contentDigest, parent = null } = summary;
  if (options.json) return printJson({ type: 'written', file: out, digest, contentDigest, parent, bytes });
  printResult(finished);
  printLine('');
  printFields([
    ['wrote', out],
    ['digest', digest],
    ...(parent === null ? [] : [['parent', parent] as const]),
    ['bytes', `${formatCount(bytes)} (${summary.bitsPerParameter.toFixed(4)} bit per parameter)`],
    ['took', duration(finished.seconds)],
  ]);
  printLine(`try it:\n  maskctl push ${options.task} ${out}\n  ${curlLine(options, options.task)}`);
}

/** Perplexity on held-out text: dense, prior, this mask. */
function printResult({ heldOut, changed, bitsPerParameter, step }: TrainFinished): void {
  printLine('');
  printTable(
    ['HELD-OUT TEXT', 'DENSE', 'PRIOR', 'THIS MASK', ''],
    heldOut.map(({ source, guard, dense, prior, mask }) => [
      guard ? `${source} (guard)` : source,
      ...[dense, prior, mask].map((perplexity) => perplexity.toFixed(2)),
      relative(mask, prior),
    ]),
    ['DENSE', 'PRIOR', 'THIS MASK', ''],
  );
  printLine(
    `${percent(changed)} of the groups changed, ${bitsPerParameter.toFixed(4)} bit per parameter given the prior (mask of step ${step})`,
  );
}
