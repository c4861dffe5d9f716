/** What a run shows while it goes: a line that redraws itself on a terminal, a line each interval in a pipe, an event each interval as JSON. */
import type { PrepareEvent } from '../../server/trainer/prepare-types.js';
import type { Look } from '../../server/trainer/run-steps.js';
import type { TrainEvent, TrainStarted, TrainStep } from '../../server/trainer/types.js';
import { formatCount, printJson, printLine } from './output.js';
import type { Terminal } from './progress.js';

const BAR_CELLS = 16;
const CLEAR_LINE = '\r\x1b[K';

export interface ReportOptions {
  readonly json: boolean;
  /** Steps between two lines where nothing can be redrawn. */
  readonly logEvery: number;
}

export class TrainingReport {
  private drawn = false;
  private prior: number | undefined;
  private seen: Look = {};

  constructor(
    private readonly options: ReportOptions,
    private readonly terminal: Terminal & { readonly columns?: number } = process.stderr,
  ) {}

  show(event: TrainEvent | PrepareEvent): void {
    if (event.type === 'started') this.prior = event.priorPerplexity;
    if (event.type === 'step' && event.heldOutPerplexity !== undefined) this.seen = event;
    if (this.options.json) {
      if (event.type !== 'step' || this.isDue(event)) printJson(event);
    } else if (event.type === 'started') {
      printLine(describeStart(event));
    } else if (event.type === 'step') {
      if (this.terminal.isTTY) this.draw(this.line(event, bar(event)));
      else if (this.isDue(event)) printLine(this.line(event, ''));
    }
  }

  /** Clears the line. */
  end(): void {
    if (this.drawn) this.terminal.write(CLEAR_LINE);
    this.drawn = false;
  }

  /** A line that wraps could not be cleared again. */
  private draw(line: string): void {
    this.terminal.write(CLEAR_LINE + line.slice(0, (this.terminal.columns ?? Infinity) - 1));
    this.drawn = true;
  }

  private isDue({ step, steps, heldOutPerplexity }: TrainStep): boolean {
    return heldOutPerplexity !== undefined || step === steps || step % this.options.logEvery === 0;
  }

  private line(event: TrainStep, drawn: string): string {
    const { step, steps, loss, tokensPerSecond, secondsLeft } = event;
    const parts = [
      `step ${step}/${steps}`,
      ...(drawn === '' ? [] : [drawn]),
      `loss ${loss.toFixed(3)}`,
      ...this.heldOut(),
      `${formatCount(Math.round(tokensPerSecond))} tokens/s`,
      `${duration(secondsLeft)} left`,
    ];
    return parts.join('  ');
  }

  /** From the last look: `held-out 17.90 (from 18.45, −3.0%)  1.20% changed, 0.0280 bit/param  max probability 0.91`. */
  private heldOut(): string[] {
    const { heldOutPerplexity: perplexity, changed, bitsPerParameter: bits, maxProbability } = this.seen;
    if (perplexity === undefined) return [];
    const from =
      this.prior === undefined ? '' : ` (from ${this.prior.toFixed(2)}, ${relative(perplexity, this.prior)})`;
    const distance =
      changed === undefined || bits === undefined ? [] : [`${percent(changed)} changed, ${bits.toFixed(4)} bit/param`];
    const sure = maxProbability === undefined ? [] : [`max probability ${maxProbability.toFixed(2)}`];
    return [`held-out ${perplexity.toFixed(2)}${from}`, ...distance, ...sure];
  }
}

/** `−3.0%` */
export function relative(value: number, to: number): string {
  const share = (value / to - 1) * 100;
  return `${share < 0 ? '−' : '+'}${Math.abs(share).toFixed(1)}%`;
}

export function percent(share: number): string {
  return `${(share * 100).toFixed(2)}%`;
}

/** `1 h 02 min`, `3 min 20 s`, `12 s`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  const two = (value: number): string => String(value).padStart(2, '0');
  if (hours > 0) return `${hours} h ${two(minutes)} min`;
  return minutes > 0 ? `${minutes} min ${two(rest)} s` : `${rest} s`;
}

export function describeStart(event: TrainStarted): string {
  const { memory, learningRate, resumedFrom, steps } = event;
  const mib = (bytes: number): string => `${formatCount(Math.ceil(bytes / 2 ** 20))} MiB`;
  const from = resumedFrom > 0 ? ` (${resumedFrom} of them done before)` : '';
  return [
    `${event.task}: ${steps} steps${from} at a peak rate of ${learningRate.toPrecision(3)}, ${formatCount(event.trainTokens)} tokens to train on, ${formatCount(event.heldOutTokens)} held out`,
    `memory (${event.backend}): ${mib(memory.learnerBytes)} for what is learned (${memory.bytesPerWeight.toFixed(1)} bytes a weight), ${mib(memory.activationBytes)} of activations${memory.recomputes ? ', recomputed layer by layer' : ''}`,
    ...(event.teacher
      ? [
          `teacher: perplexity ${event.teacher.perplexity.toFixed(2)} on the held-out text, ${mib(event.teacher.bytes)} of memory`,
        ]
      : []),
    ...(event.chosenLoss ? [describeLoss(event, event.chosenLoss)] : []),
  ].join('\n');
}

function describeLoss({ priorPerplexity }: TrainStarted, chosen: NonNullable<TrainStarted['chosenLoss']>): string {
  const than = `(perplexity ${chosen.teacherPerplexity.toFixed(2)}) is ${chosen.loss === 'lm' ? 'not clearly better' : 'better'} on the held-out text than the start (${priorPerplexity.toFixed(2)})`;
  return chosen.loss === 'lm'
    ? `loss: lm alone, for the teacher ${than}`
    : `loss: half KL to the teacher, half next token, for the teacher ${than}`;
}

function bar({ step, steps }: TrainStep): string {
  const filled = Math.floor((step / steps) * BAR_CELLS);
  return '█'.repeat(filled) + '░'.repeat(BAR_CELLS - filled);
}
