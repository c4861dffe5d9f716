/** Events for one reader, in order. A reader that is slower than the run skips steps, but no step that looked at held-out text and nothing else. */
import type { JobEvent } from './types.js';

export class Subscription {
  private readonly waiting: JobEvent[] = [];
  private end: { readonly error?: Error } | undefined;
  private wake: (() => void) | undefined;

  push(event: JobEvent): void {
    if (this.end) return;
    const last = this.waiting.at(-1);
    if (last && isPassing(last) && isPassing(event)) this.waiting.pop();
    this.waiting.push(event);
    this.wake?.();
  }

  /** Ends it after what is waiting. */
  close(error?: Error): void {
    this.end ??= error ? { error } : {};
    this.wake?.();
  }

  /** Ends it at once. */
  abort(error: Error): void {
    this.waiting.length = 0;
    this.close(error);
  }

  async *read(): AsyncGenerator<JobEvent, void, undefined> {
    for (;;) {
      const event = this.waiting.shift();
      if (event) yield event;
      else if (this.end?.error) throw this.end.error;
      else if (this.end) return;
      else await new Promise<void>((resolve) => (this.wake = resolve));
    }
  }
}

function isPassing(event: JobEvent): boolean {
  return event.type === 'progress' || (event.type === 'step' && event.heldOutPerplexity === undefined);
}
