/** The curves of a training run, from its events: the loss of every step above, perplexity on held-out text below. */
import type { PreparedRow, PrepareEvent } from '../../../server/trainer/prepare-types.js';
import type { HeldOutRow, TrainEvent, TrainStarted, TrainStep } from '../../../server/trainer/types.js';
import { printJson, printLine } from '../output.js';
import { stackedCurvesSvg, type Curves, type Series } from './curves.js';
import { checkPicture, writePicture } from './svg.js';

export interface PlotOptions {
  readonly plot?: string;
  readonly json?: true;
}

export const PLOT_HELP =
  "draw the run's curves when it ends or is stopped: loss, and perplexity on held-out text (.png or .svg)";

type Rows = readonly (HeldOutRow | PreparedRow)[];

/** Refuses, before any work, a file name that can't become a picture. */
export async function checkPlot({ plot }: PlotOptions): Promise<void> {
  if (plot !== undefined) await checkPicture(plot, '--plot', ['png', 'svg']);
}

export class RunCurves {
  private started: TrainStarted | undefined;
  private steps: TrainStep[] = [];
  private rows: Rows = [];

  /** Steps that a resumed run does again replace those before. */
  see(event: TrainEvent | PrepareEvent): void {
    if (event.type === 'started') {
      this.started = event;
      this.steps = this.steps.filter(({ step }) => step <= event.resumedFrom);
    } else if (event.type === 'step') {
      this.steps.push(event);
    } else {
      this.rows = event.heldOut;
    }
  }

  /** Writes the picture that --plot asks for and says so; nothing where no step was seen. One that can't be written costs nobody the run's result. */
  async plot({ plot, json }: PlotOptions): Promise<void> {
    if (plot === undefined || this.steps.length === 0) return;
    try {
      await writePicture(plot, this.svg());
    } catch (error) {
      process.stderr.write(`maskctl: could not draw the curves: ${(error as Error).message}\n`);
      return;
    }
    if (json) printJson({ type: 'plotted', file: plot });
    else printLine(`curves: ${plot}`);
  }

  /** Throws one line before the first step. */
  svg(): string {
    const panels = [this.losses(), this.perplexities()].filter(({ series }) => series.some(hasPoint));
    return stackedCurvesSvg(`${this.name}: loss and perplexity`, panels);
  }

  private get name(): string {
    return this.started?.task ?? 'training';
  }

  /** Without KL the loss is the next token's. */
  private losses(): Curves {
    const curve = (name: string, value: (step: TrainStep) => number): Series => ({
      name,
      points: this.steps.map((step) => [step.step, value(step)]),
    });
    const isPlain = this.steps.every(({ kl }) => kl === 0);
    const loss = curve(isPlain ? 'loss (next token)' : 'loss', (step) => step.loss);
    const parts = isPlain ? [] : [curve('next token (LM)', ({ lm }) => lm), curve('KL to the teacher', ({ kl }) => kl)];
    const { steps } = this.steps.at(-1) as TrainStep;
    return {
      title: `${this.name}: loss of each batch, ${steps} steps`,
      xLabel: 'step',
      yLabel: 'nats per token',
      series: [loss, ...parts],
    };
  }

  private perplexities(): Curves {
    const { started } = this;
    const start = started ? ([started.resumedFrom, started.priorPerplexity] as const) : undefined;
    const looks = this.steps.flatMap(({ step, heldOutPerplexity }) =>
      heldOutPerplexity === undefined ? [] : [[step, heldOutPerplexity] as const],
    );
    const isFresh = start?.[0] === 0;
    return {
      title: `${this.name}: perplexity on held-out text`,
      xLabel: 'step',
      yLabel: 'perplexity',
      series: [{ name: 'as it is learned', points: isFresh ? [start, ...looks] : looks }],
      levels: this.levels(),
    };
  }

  private levels(): { name: string; y: number }[] {
    const own = this.rows.filter(({ guard }) => !guard);
    const level = (name: string, y: number | undefined): { name: string; y: number }[] =>
      y === undefined ? [] : [{ name: `${name} ${y.toFixed(2)}`, y }];
    const dense = own.length === 0 ? undefined : own.reduce((sum, row) => sum + row.dense, 0) / own.length;
    return [...level('start', this.started?.priorPerplexity), ...level('dense', dense)];
  }
}

function hasPoint({ points }: Series): boolean {
  return points.some(([, y]) => Number.isFinite(y));
}
