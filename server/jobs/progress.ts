/** The events of a run → what is kept of them, and back: a summary that ends where the run is. */
import type { TrainEvent, TrainStep } from '../trainer/types.js';
import type { JobProgress } from './types.js';

export const NO_PROGRESS: JobProgress = { looks: [] };

/** Looks kept; beyond it every second one goes. */
const LOOK_LIMIT = 200;

export function withEvent(progress: JobProgress, event: TrainEvent): JobProgress {
  switch (event.type) {
    case 'started':
      // steps after the checkpoint that a run goes on from are run again
      return { started: event, looks: progress.looks.filter(({ step }) => step <= event.resumedFrom) };
    case 'step': {
      const looks = event.heldOutPerplexity === undefined ? progress.looks : thinned([...progress.looks, event]);
      return { ...progress, looks, last: event };
    }
    case 'finished':
      return { ...progress, finished: event };
  }
}

/** Past events, in their order. */
export function eventsOf({ started, looks, last, finished }: JobProgress): TrainEvent[] {
  const ended = last === undefined || looks.at(-1)?.step === last.step ? [] : [last];
  return [...(started ? [started] : []), ...looks, ...ended, ...(finished ? [finished] : [])];
}

export function lastEvent(progress: JobProgress): TrainEvent | undefined {
  return eventsOf(progress).at(-1);
}

function thinned(looks: readonly TrainStep[]): readonly TrainStep[] {
  if (looks.length <= LOOK_LIMIT) return looks;
  return looks.filter((_, i) => i % 2 === 0 || i === looks.length - 1);
}
