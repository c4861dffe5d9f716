/** A progress line on stderr: only on a terminal, and only for what takes longer than a second. Nothing is drawn in a pipe. */

const QUIET_MS = 1000;
const REDRAW_MS = 100;
const BAR_CELLS = 24;
const CLEAR_LINE = '\r\x1b[K';

/** What a progress line is drawn on: `process.stderr`. */
export interface Terminal {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}

export class Progress {
  private readonly started: number;
  private stageStarted: number;
  private readonly timer: NodeJS.Timeout | undefined;
  private done = 0;
  private of = 0;
  private drawnAt = -Infinity;

  /** `label` says what is going on, e.g. `calibrating`. */
  constructor(
    private label: string,
    private readonly terminal: Terminal = process.stderr,
    private readonly now: () => number = Date.now,
  ) {
    this.started = this.stageStarted = now();
    if (!terminal.isTTY) return;
    // Keeps the seconds running while a server works; a stage that blocks this thread calls `update` instead.
    this.timer = setInterval(() => this.draw(), REDRAW_MS).unref();
  }

  /** `done` of `of` pieces of the stage `label`; 0 of 0 where nobody knows. */
  update(done: number, of: number, label = this.label): void {
    if (label !== this.label) {
      this.stageStarted = this.now();
      this.drawnAt = -Infinity; // a new stage may block this thread for long: it is shown at once
    }
    this.done = done;
    this.of = of;
    this.label = label;
    this.draw();
  }

  /** Clears the line. Call it before anything else is printed, and on the way out of an error. */
  end(): void {
    clearInterval(this.timer);
    if (this.drawnAt > -Infinity) this.terminal.write(CLEAR_LINE);
    this.drawnAt = -Infinity;
  }

  private draw(): void {
    const now = this.now();
    if (!this.terminal.isTTY || now - this.started < QUIET_MS || now - this.drawnAt < REDRAW_MS) return;
    this.drawnAt = now;
    this.terminal.write(CLEAR_LINE + this.line((now - this.stageStarted) / 1000));
  }

  private line(seconds: number): string {
    if (this.of === 0) return `${this.label}  ${seconds.toFixed(0)} s`;
    const share = Math.min(1, this.done / this.of);
    const filled = Math.floor(share * BAR_CELLS);
    const bar = '█'.repeat(filled) + '░'.repeat(BAR_CELLS - filled);
    const left = this.done > 0 ? `, ${Math.ceil((seconds / this.done) * (this.of - this.done))} s left` : '';
    return `${this.label}  ${bar}  ${this.done}/${this.of}${left}`;
  }
}

/** Runs `work` with a progress line that is cleared however it ends. */
export async function withProgress<T>(label: string, work: (progress: Progress) => T | Promise<T>): Promise<T> {
  const progress = new Progress(label);
  try {
    return await work(progress);
  } finally {
    progress.end();
  }
}
