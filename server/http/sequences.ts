/**
 * Runs the sequences of one request (several prompts, n > 1) side by side. A bounded number is in the engine at once, so that one client's batch does not
 * fill the queue; the rest follows as these end. Ends when all have ended, also after a failure: the lease must outlive every sequence.
 */
import { setMaxListeners } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import type { Engine, GenerateEvent, GenerateRequest } from '../engine/types.js';
import { ServerError } from '../errors.js';
import type { Metrics } from './metrics.js';

/** How long a later sequence of a batch waits when others took its place in the queue. */
const QUEUE_RETRY_MS = 50;

export interface SequenceOptions {
  readonly engine: Engine;
  readonly signal: AbortSignal;
  /** How many are in the engine at once. */
  readonly inFlight: number;
  /** Called in order within a sequence; what it returns is awaited before the sequence's next event is taken. */
  readonly onEvent: (index: number, event: GenerateEvent) => Promise<void> | void;
}

/** Throws what the first failing sequence threw, after all have ended. */
export async function runSequences(requests: readonly GenerateRequest[], options: SequenceOptions): Promise<void> {
  const inner = new AbortController();
  // One listener a sequence, not a leak.
  setMaxListeners(0, inner.signal);
  const onAbort = (): void => inner.abort(options.signal.reason);
  options.signal.addEventListener('abort', onAbort, { once: true });
  if (options.signal.aborted) onAbort();
  try {
    const run = new Run(requests, { ...options, signal: inner.signal });
    const lanes = Array.from({ length: Math.min(options.inFlight, requests.length) }, () =>
      run.lane().catch((error: unknown) => {
        inner.abort(error);
        throw error;
      }),
    );
    await Promise.allSettled(lanes);
    if (inner.signal.aborted) throw inner.signal.reason;
  } finally {
    options.signal.removeEventListener('abort', onAbort);
  }
}

class Run {
  private next = 0;
  /** Handed to the engine and not ended. */
  private inEngine = 0;
  /** Once a sequence has answered, the request is accepted. */
  private accepted = false;

  constructor(
    private readonly requests: readonly GenerateRequest[],
    private readonly options: SequenceOptions,
  ) {}

  /** Takes one sequence after another until none is left. */
  async lane(): Promise<void> {
    while (this.next < this.requests.length) {
      const index = this.next++;
      while (!(await this.sequence(index))) await delay(QUEUE_RETRY_MS, undefined, { signal: this.options.signal });
    }
  }

  /** False when the queue was full but had taken others of this request: then this one waits for its turn instead of failing them all. */
  private async sequence(index: number): Promise<boolean> {
    const { engine, signal, onEvent } = this.options;
    this.inEngine++;
    try {
      for await (const event of engine.generate(this.requests[index] as GenerateRequest, signal)) {
        this.accepted = true;
        await onEvent(index, event);
      }
      this.inEngine--;
      return true;
    } catch (error) {
      this.inEngine--;
      const waits = this.accepted || this.inEngine > 0;
      if (waits && error instanceof ServerError && error.code === 'queue_full') return false;
      throw error;
    }
  }
}

/** Reports one sequence's events to the metrics. `startedAt`: when the request came, by performance.now(). */
export function meter(metrics: Metrics, task: string, startedAt: number): (event: GenerateEvent) => void {
  let last: number | undefined;
  return (event) => {
    const now = performance.now();
    if (event.type === 'delta') {
      if (last === undefined) metrics.firstToken(task, (now - startedAt) / 1000);
      else metrics.nextToken(task, (now - last) / 1000);
      last = now;
    }
    if (event.type === 'done') {
      metrics.promptTokens(task, event.promptTokens);
      metrics.completionTokens(task, event.completionTokens);
      metrics.queueTime(event.timings.queuedMs / 1000);
    }
  };
}
