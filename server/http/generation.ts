/** From checked sequences to their events: the part that completions and chat completions share. */
import type { Response } from 'express';
import type { GenerateEvent, GenerateRequest } from '../engine/types.js';
import { logError, toServerError } from './error-handler.js';
import { withWeights } from './lease.js';
import { requestIdOf, type Parts } from './parts.js';
import { ClientGone, openScope } from './request-scope.js';
import { meter, runSequences } from './sequences.js';
import { EventStream } from './sse.js';
import type { ChosenTask } from './task.js';

export interface Generation {
  readonly requests: readonly Omit<GenerateRequest, 'weights'>[];
  readonly chosen: ChosenTask;
  /** When the request came, by performance.now(). */
  readonly startedAt: number;
  readonly parts: Parts;
  readonly res: Response;
}

export type EventSink = (index: number, event: GenerateEvent) => Promise<void> | void;

/** Leases the task, runs all sequences, gives every event to `sink`. Throws what went wrong, after everything has ended and is given back. */
export async function generate(generation: Generation, sink: EventSink): Promise<void> {
  const { requests, chosen, startedAt, parts, res } = generation;
  const { engine, config, limits, metrics } = parts;
  const scope = openScope(res, config.requestTimeoutMs);
  const meters = requests.map(() => meter(metrics, chosen.task, startedAt));
  try {
    await withWeights(chosen, parts, scope.signal, (weights) =>
      runSequences(
        requests.map((request) => ({ ...request, weights })),
        {
          engine,
          signal: scope.signal,
          inFlight: limits.sequencesInFlight,
          onEvent: (index, event) => {
            meters[index]?.(event);
            return sink(index, event);
          },
        },
      ),
    );
  } finally {
    scope.close();
  }
}

/**
 * The same as a stream of chunks. The headers go out when every sequence that runs has begun, or after `limits.flushAfter`: until then a failure is an answer
 * with its status, from then on an error event. `last`: a chunk before [DONE], if any.
 */
export async function generateStream(
  generation: Generation,
  chunkOf: (index: number, event: GenerateEvent) => unknown,
  last: () => unknown,
): Promise<void> {
  const { requests, parts, res } = generation;
  const stream = new EventStream(res, parts.limits);
  let waitingToBegin = Math.min(requests.length, parts.limits.sequencesInFlight);
  try {
    await generate(generation, async (index, event) => {
      if (event.type === 'prompt' && --waitingToBegin === 0) stream.open();
      const chunk = chunkOf(index, event);
      if (chunk !== undefined) await stream.send(chunk);
    });
    const chunk = last();
    if (chunk !== undefined) await stream.send(chunk);
    await stream.done();
  } catch (thrown) {
    if (!stream.opened || thrown instanceof ClientGone) throw thrown;
    const error = toServerError(thrown);
    logError(parts.log, error, thrown, requestIdOf(res));
    await stream.fail(error);
  } finally {
    stream.close();
  }
}
