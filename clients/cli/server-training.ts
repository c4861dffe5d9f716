/** `maskctl train` without --local: the text goes to the server, a job there learns the mask and publishes it, and this command shows how it goes. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import type { TrainRequest } from '../../server/trainer/types.js';
import { MaskServeError, type MaskServe, type TrainEvent, type TrainJob, type TrainTeacher } from '../sdk/index.js';
import { connect, curlLine } from './connection.js';
import { UsageError } from './usage-error.js';
import type { GlobalOptions } from './global-options.js';
import { formatCount, formatTime, printFields, printJson, printLine, printTable } from './output.js';
import { RunCurves, type PlotOptions } from './pictures/run-curves.js';
import { Progress, withProgress } from './progress.js';
import { Stopper } from './stoppable.js';
import { charactersOf, sampled } from './text-sample.js';
import { duration, TrainingReport } from './training-report.js';
import { printResult } from './training-result.js';

export interface ServerTrainingOptions extends GlobalOptions, PlotOptions {
  readonly logEvery: number;
  readonly list?: true;
  readonly attach?: string;
  readonly cancel?: string;
}

/** Options of --local alone: the server has its own of each. */
const LOCAL_ONLY = [
  'out',
  'flat',
  'parent',
  'model',
  'threads',
  'backend',
  'checkpoint',
  'checkpointEvery',
  'resume',
  'activationBytes',
] as const;
/** How long a server that went away is waited for: a restart. */
const RECONNECT_MS = 1_000;
const RECONNECT_TRIES = 120;
const LOST: ReadonlySet<string> = new Set(['connection_failed', 'shutting_down']);

export function addServerTraining(command: Command): Command {
  return command
    .option('--list', 'the jobs of the server, instead')
    .option('--attach <job>', 'show how a job of the server goes, instead')
    .option('--cancel <job>', 'cancel a job of the server, or forget one that is over, instead');
}

/** Whether no text is asked for. */
export function isAboutJobs({ list, attach, cancel }: ServerTrainingOptions): boolean {
  return list !== undefined || attach !== undefined || cancel !== undefined;
}

/** --list, --attach, --cancel. */
export async function manageJobs(options: ServerTrainingOptions): Promise<void> {
  const client = connect(options);
  if (options.cancel !== undefined) return cancel(client, options.cancel, options);
  if (options.attach !== undefined) return follow(client, await client.training.get(options.attach), options);
  return list(client, options);
}

/** Posts a job and shows it to its end. */
export async function trainOnServer(
  request: TrainRequest & { readonly tuneTeacher?: TrainTeacher },
  options: ServerTrainingOptions,
): Promise<void> {
  const client = connect(options);
  const { settings } = request;
  const sources = sampled(request.sources, settings);
  const guards = sampled(request.guards, settings.guardShare > 0 ? settings : { ...settings, steps: 0 });
  const [sent, all] = [charactersOf(sources), charactersOf(request.sources)];
  if (sent < all) {
    process.stderr.write(
      `sending ${megabytes(sent)} of ${megabytes(all)} of text, drawn at random: what the run can use\n`,
    );
  }
  const job = await withProgress('sending text', () => client.training.start({ ...request, sources, guards }));
  await follow(client, job, options);
}

/** Throws for an option that only means something with --local. */
export function refuseLocalOptions(command: Command): void {
  const given = LOCAL_ONLY.find((name) => command.getOptionValueSource(name) === 'cli');
  if (given === undefined) return;
  const flag = given.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  throw new UsageError(
    `expected --local beside --${flag}: without it the server trains, with its own model, threads and checkpoints, and publishes the mask`,
  );
}

async function follow(client: MaskServe, { id, task }: TrainJob, options: ServerTrainingOptions): Promise<void> {
  const { json, logEvery } = options;
  if (json) printJson({ type: 'job', id, task });
  const report = new TrainingReport({ json: json === true, logEvery });
  const curves = new RunCurves();
  const progress = new Progress('waiting for the server');
  const leaving = new Stopper(() => undefined);
  leaving.listen();
  let job: TrainJob | undefined;
  try {
    for await (const event of eventsAcrossRestarts(client, id, leaving.signal)) {
      if (event.type === 'job') job = event.job;
      if (event.type !== 'job' && event.type !== 'progress') curves.see(event);
      show(event, report, progress);
    }
  } catch (error) {
    if (!leaving.signal.aborted) throw error;
    progress.end();
    report.end();
    await curves.plot(options);
    process.stderr.write(`${howToGoOn(id, options)}\n`);
    process.exit(leaving.exitCode);
  } finally {
    progress.end();
    report.end();
    leaving.dispose();
  }
  await curves.plot(options);
  conclude(job, options);
}

function show(event: TrainEvent, report: TrainingReport, progress: Progress): void {
  switch (event.type) {
    case 'job':
      if (event.job.state === 'queued') progress.update(0, 0, waitingFor(event.job));
      return;
    case 'progress':
      return progress.update(event.done, event.of, event.stage);
    default:
      progress.end();
      return report.show(event);
  }
}

/** The events of a job, each once, through restarts of its server. */
async function* eventsAcrossRestarts(
  client: MaskServe,
  id: string,
  signal: AbortSignal,
): AsyncGenerator<TrainEvent, void, undefined> {
  const seen = new Set<string>();
  for (let tries = 0; ;) {
    try {
      for await (const event of client.training.events(id, { signal })) {
        tries = 0;
        // a stream begins with a summary of what was sent before
        const key = event.type === 'step' ? `step ${event.step}` : JSON.stringify(event);
        if (event.type === 'job' || event.type === 'progress' || !seen.has(key)) yield event;
        seen.add(key);
      }
      return;
    } catch (error) {
      if (!(error instanceof MaskServeError) || !LOST.has(error.code) || ++tries > RECONNECT_TRIES) throw error;
      if (tries === 1) process.stderr.write('the server went away; its job goes on when it is back, waiting for it\n');
      await sleep(RECONNECT_MS, undefined, { signal });
    }
  }
}

function waitingFor({ position }: TrainJob): string {
  const before = position ?? 1;
  return before <= 1 ? 'waiting: next in the queue' : `waiting: number ${before} in the queue`;
}

function conclude(job: TrainJob | undefined, options: ServerTrainingOptions): void {
  if (!job) throw new Error('expected the server to say how the job ended, but it did not');
  const { task, state, error, finished } = job;
  if (finished && !options.json) printResult(finished);
  if (state === 'cancelled') throw new Error(`the training of ${task} was cancelled`);
  if (state !== 'finished') throw new Error(error?.message ?? `the training of ${task} ended as ${state}`);
  published(job, options);
}

function published({ id, task, digest, bytes, parent, finished }: TrainJob, options: ServerTrainingOptions): void {
  if (options.json) return printJson({ type: 'published', id, task, digest, parent, bytes });
  printLine('');
  printFields([
    ['published', task],
    ['digest', digest ?? ''],
    ['bytes', formatCount(bytes ?? 0)],
    ['took', duration(finished?.seconds ?? 0)],
  ]);
  printLine(`try it:\n  ${curlLine(options, task)}`);
}

async function cancel(client: MaskServe, id: string, { json }: ServerTrainingOptions): Promise<void> {
  const job = await client.training.cancel(id);
  if (json) return printJson({ type: 'cancelled', id, job: job ?? null });
  if (!job) return printLine(`${id} was over, and is forgotten`);
  printLine(
    job.state === 'cancelled' ? `${id}: cancelled, ${job.task} is as it was` : `${id}: it was ${job.state} before`,
  );
}

async function list(client: MaskServe, { json }: ServerTrainingOptions): Promise<void> {
  const jobs = await client.training.list();
  if (json) return printJson(jobs);
  if (jobs.length === 0) return printLine('no training jobs');
  printTable(
    ['JOB', 'TASK', 'FROM', 'STATE', 'STEP', 'POSTED', 'RESULT'],
    jobs.map((job) => [
      job.id,
      job.task,
      job.from ?? '-',
      job.state,
      stepOf(job),
      formatTime(job.created_at),
      resultOf(job),
    ]),
    ['STEP'],
  );
}

function stepOf({ event, settings }: TrainJob): string {
  if (event?.type === 'step' || event?.type === 'finished') return `${event.step}/${settings.steps ?? ''}`;
  return `0/${settings.steps ?? ''}`;
}

function resultOf({ digest, error, position }: TrainJob): string {
  if (digest !== null) return digest.slice(0, 12);
  if (error !== null) return error.code;
  return position !== null && position > 0 ? `number ${position} in the queue` : '';
}

function howToGoOn(id: string, { server }: ServerTrainingOptions): string {
  return `the job goes on at ${server}; watch it again, or cancel it, with:\n  maskctl train --attach ${id}\n  maskctl train --cancel ${id}`;
}

function megabytes(characters: number): string {
  return `${(characters / 2 ** 20).toFixed(1)} MB`;
}
