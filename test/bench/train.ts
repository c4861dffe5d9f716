/** Training speed and peak memory on models/tiny at batch 16 × 256, by method and loss, in turns with the PyTorch yardstick where it can run. */
import { execFileSync } from 'node:child_process';
import { cpus, loadavg } from 'node:os';
import { fileURLToPath } from 'node:url';
import { TINY } from '../tiny.js';
import { median } from './forward.js';
import type { TrainingRun, TrainingRunResult } from './training-run.js';
import { runYardstick, type Yardstick, type YardstickResult } from './yardstick.js';

export interface TrainingSpeed {
  readonly method: TrainingRun['method'];
  readonly loss: TrainingRun['loss'];
  /** Median of the rounds. */
  readonly tokensPerSecond: number;
  /** Each round's, in order. */
  readonly rounds: readonly number[];
  /** Largest resident set of any round. */
  readonly peakBytes: number;
  readonly nativeBytes: number;
}

export interface YardstickSpeed extends YardstickResult {
  /** gumbel with the LM loss, as the yardstick trains: ours / yardstick, median of the rounds' ratios. */
  readonly ratio: number;
  /** Each round's tokens a second, in order. */
  readonly rounds: readonly number[];
  /** ours / yardstick */
  readonly memoryRatio: number;
}

export interface TrainingFigures {
  readonly batch: number;
  readonly seq: number;
  readonly rounds: number;
  readonly threads: number;
  /** Processes that were running or waiting in the minute before. */
  readonly loadBefore: number;
  /** Other processes wanted the cores that the runs needed: ratios are rough. */
  readonly busy: boolean;
  readonly speeds: readonly TrainingSpeed[];
  readonly yardstick: YardstickSpeed | { readonly skipped: string };
}

export interface TrainingBenchOptions {
  readonly rounds: number;
  readonly threads: number;
  /** Or why there is none. */
  readonly yardstick: Yardstick | string;
}

/** At a load of 5 to 9 on two cores the yardstick made 410 tokens/s on two threads and 2,660 on one. */
const BUSY_NOTE =
  'the machine was busy: other processes took part of the time, and ratios are rough. Threads that wait for each other lose most by it, PyTorch’s above all; --threads 1 is fairer then';

const SHAPE = { backend: 'cpu', model: TINY, batch: 16, seq: 256, warmup: 2, timed: 8 } as const;
/** Load that a machine at rest has. */
const QUIET = 0.5;
/** The first is what the yardstick runs. */
const VARIANTS = [
  { method: 'gumbel', loss: 'lm' },
  { method: 'ste', loss: 'lm' },
  { method: 'ste', loss: 'kl' },
] as const;
const RUN_FILE = fileURLToPath(new URL('training-run.js', import.meta.url));

/** Each round runs the yardstick, then every variant, one process at a time. */
export function measureTraining({ rounds, threads, yardstick }: TrainingBenchOptions): TrainingFigures {
  const loadBefore = loadavg()[0] as number;
  const ours: TrainingRunResult[][] = VARIANTS.map(() => []);
  const theirs: YardstickResult[] = [];
  let skipped = typeof yardstick === 'string' ? yardstick : undefined;
  for (let round = 0; round < rounds; round++) {
    if (skipped === undefined && typeof yardstick !== 'string') {
      const result = runYardstick(yardstick, SHAPE.model, threads);
      if (typeof result === 'string') skipped = result;
      else theirs.push(result);
    }
    VARIANTS.forEach((variant, i) => ours[i]?.push(runTraining({ ...SHAPE, ...variant, threads })));
  }
  const used = ours[0]?.[0]?.threads ?? threads;
  return {
    batch: SHAPE.batch,
    seq: SHAPE.seq,
    rounds,
    threads: used,
    loadBefore,
    busy: loadBefore + used > cpus().length + QUIET,
    speeds: VARIANTS.map((variant, i) => ({ ...variant, ...summary(ours[i] as TrainingRunResult[]) })),
    yardstick: skipped === undefined ? compared(ours[0] as TrainingRunResult[], theirs) : { skipped },
  };
}

/** What a person reads. */
export function trainingTable(figures: TrainingFigures): string {
  const { batch, seq, rounds, threads, loadBefore, busy, speeds, yardstick } = figures;
  const lines = speeds.map((speed) =>
    row(`${speed.method}, --loss ${speed.loss}`, speed, ` (${mebibytes(speed.nativeBytes)} MiB of it buffers)`),
  );
  const last =
    'skipped' in yardstick
      ? `  yardstick skipped: ${yardstick.skipped}`
      : row(
          'yardstick (gumbel, LM loss)',
          yardstick,
          ` · gumbel/yardstick ${yardstick.ratio.toFixed(2)}× tokens/s, ${yardstick.memoryRatio.toFixed(2)}× memory`,
        );
  const head = `\ntraining models/tiny, ${batch} × ${seq} tokens a step, threads: ${threads}, median (least to most) of ${rounds} rounds, load before: ${loadBefore.toFixed(1)}`;
  return [head, ...lines, last, ...(busy ? [`  ${BUSY_NOTE}`] : [])].join('\n');
}

interface Row {
  readonly tokensPerSecond: number;
  readonly rounds: readonly number[];
  readonly peakBytes: number;
}

function row(name: string, { tokensPerSecond, rounds, peakBytes }: Row, rest: string): string {
  const spread = `(${Math.min(...rounds).toFixed(0)} to ${Math.max(...rounds).toFixed(0)})`;
  return `  ${name.padEnd(28)} ${tokensPerSecond.toFixed(0).padStart(6)} tokens/s ${spread.padEnd(16)} · peak ${mebibytes(peakBytes).padStart(5)} MiB${rest}`;
}

/** In a process of its own. */
export function runTraining(settings: TrainingRun): TrainingRunResult {
  const output = execFileSync(process.execPath, [RUN_FILE, JSON.stringify(settings)], { encoding: 'utf8' });
  return JSON.parse(output) as TrainingRunResult;
}

function summary(runs: readonly TrainingRunResult[]): Omit<TrainingSpeed, 'method' | 'loss'> {
  const rounds = runs.map(({ tokensPerSecond }) => tokensPerSecond);
  return {
    tokensPerSecond: median(rounds),
    rounds,
    peakBytes: Math.max(...runs.map(({ peakBytes }) => peakBytes)),
    nativeBytes: runs[0]?.nativeBytes ?? 0,
  };
}

function compared(ours: readonly TrainingRunResult[], theirs: readonly YardstickResult[]): YardstickSpeed {
  const rounds = theirs.map(({ tokensPerSecond }) => tokensPerSecond);
  const peakBytes = Math.max(...theirs.map((result) => result.peakBytes));
  return {
    tokensPerSecond: median(rounds),
    rounds,
    peakBytes,
    ratio: median(rounds.map((rate, i) => (ours[i]?.tokensPerSecond ?? NaN) / rate)),
    memoryRatio: Math.max(...ours.map((result) => result.peakBytes)) / peakBytes,
  };
}

function mebibytes(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(0);
}
