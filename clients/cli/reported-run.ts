/** What long runs share on the command line: options of their state and log, a report while they go, and an orderly end on Ctrl-C. */
import type { Command } from 'commander';
import type { PrepareEvent } from '../../server/trainer/prepare-types.js';
import { TrainingStopped } from '../../server/trainer/run-steps.js';
import { TUNING_STAGE } from '../../server/trainer/teacher-tune.js';
import type { TrainEvent } from '../../server/trainer/types.js';
import type { GlobalOptions } from './global-options.js';
import { integer, number } from './numbers.js';
import { PLOT_HELP, RunCurves, type PlotOptions } from './pictures/run-curves.js';
import { withProgress } from './progress.js';
import { sameCommand, Stopper } from './stoppable.js';
import { TrainingReport } from './training-report.js';

export interface RunControl extends PlotOptions {
  readonly force?: true;
  readonly logEvery: number;
  readonly checkpoint?: string;
  readonly checkpointEvery: number;
  readonly resume?: string;
  readonly activationBytes?: number;
}

/** `result`: what the run writes, in the help's words. */
export function addRunControl(command: Command, result: string): Command {
  return command
    .option('--force', `write ${result} even if it is worse than its start on held-out text`)
    .option('--plot <file>', PLOT_HELP)
    .option('--log-every <steps>', 'steps between two lines, where no terminal shows a bar', integer(1), 10)
    .option('--checkpoint <dir>', 'where the state of the run is kept (default: beside --out, with .checkpoint)')
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
}

/** What the trainer is given of it. */
export interface RunHooks {
  readonly checkpoint: { readonly directory: string; readonly every: number; readonly resume: boolean };
  readonly activationBytes?: number;
  readonly signal: AbortSignal;
  readonly onProgress: (stage: string, done: number, of: number) => void;
}

/** Shows the events of a run; when it is stopped, says how to go on and ends the process. */
export async function reportedRun<T>(
  options: RunControl & GlobalOptions,
  out: string,
  work: (hooks: RunHooks, onEvent: (event: TrainEvent | PrepareEvent) => void) => Promise<T>,
): Promise<T> {
  const { activationBytes, logEvery, json, checkpointEvery: every, resume } = options;
  const report = new TrainingReport({ json: json === true, logEvery });
  const curves = new RunCurves();
  let endProgress = (): void => undefined;
  const checkpoint = { directory: checkpointDirectory(options, out), every, resume: resume !== undefined };
  const stopper = new Stopper(() => {
    endProgress();
    report.end();
    process.stderr.write('stopping after this step; again to stop at once\n');
  });
  try {
    const result = await withProgress('reading text', (progress) => {
      endProgress = () => progress.end();
      const onEvent = (event: TrainEvent | PrepareEvent): void => {
        if (event.type === 'started') {
          progress.end();
          stopper.listen();
        }
        curves.see(event);
        report.show(event);
      };
      const hooks = {
        checkpoint,
        signal: stopper.signal,
        ...(activationBytes === undefined ? {} : { activationBytes }),
        onProgress: (stage: string, done: number, of: number) => {
          if (stage === TUNING_STAGE) stopper.listen(); // a teacher's steps are worth saving too
          progress.update(done, of, stage);
        },
      };
      return work(hooks, onEvent);
    });
    report.end();
    await curves.plot(options);
    return result;
  } catch (error) {
    report.end();
    await curves.plot(options);
    if (!(error instanceof TrainingStopped)) throw error;
    process.stderr.write(`maskctl: ${error.message}; go on with:\n  ${resumeCommand(options, out)}\n`);
    process.exit(stopper.exitCode);
  } finally {
    report.end();
    stopper.dispose();
  }
}

export function checkpointDirectory({ resume, checkpoint }: RunControl, out: string): string {
  return resume ?? checkpoint ?? `${out.replace(/\/+$/, '')}.checkpoint`;
}

/** This command line, to go on where it stopped. */
export function resumeCommand(options: RunControl, out: string, ...more: readonly string[]): string {
  return sameCommand('--resume', checkpointDirectory(options, out), ...more);
}
