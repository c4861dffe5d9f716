/** A learned mask → a version of its task, unless it should not be one. */
import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { ServerError } from '../errors.js';
import type { Registry } from '../store/types.js';
import type { TrainFinished } from '../trainer/types.js';
import type { JobRecord, JobResult } from './types.js';

const CHUNK_BYTES = 256 << 10;

/**
 * Publishes under the task's name, whatever it is at by now, unless the job was posted with a precondition. Publishing a second time (the process ended before the job was
 * written down as finished) is harmless. Throws ServerError of Registry.publish, and LostToPrior.
 */
export async function publishLearned(
  registry: Registry,
  { order, precondition, progress }: JobRecord,
  container: Uint8Array,
  maxBytes: number,
): Promise<JobResult> {
  const { finished } = progress;
  if (!finished) throw new Error('expected a finished run');
  if (!finished.publishable) throw new LostToPrior(finished);
  const digest = createHash('sha256').update(container).digest('hex');
  const result = { digest, bytes: container.length };
  try {
    const { created } = await registry.publish(order.task, Readable.from(chunksOf(container)), {
      maxBytes,
      expect: digest,
      ...(precondition === undefined ? {} : { precondition }),
    });
    return { ...result, created };
  } catch (error) {
    if (!(error instanceof ServerError) || error.code !== 'precondition_failed') throw error;
    const { digest: current } = await registry.resolve(order.task).catch(() => ({ digest: undefined }));
    if (current !== digest) throw error;
    return { ...result, created: false };
  }
}

/** It is worse than what it started from, where it was to be better. */
export class LostToPrior extends Error {
  readonly code = 'lost_to_prior';

  constructor({ heldOut }: TrainFinished) {
    const own = heldOut.filter(({ guard }) => !guard);
    const [mask, prior] = [mean(own.map((row) => row.mask)), mean(own.map((row) => row.prior))];
    super(
      `the mask loses to its prior on held-out text (perplexity ${mask.toFixed(2)} against ${prior.toFixed(2)}) and was not published: train on more text, with less travel, or from another prior; a job with force is published all the same`,
    );
  }
}

function* chunksOf(bytes: Uint8Array): Generator<Uint8Array, void, undefined> {
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) yield bytes.subarray(at, at + CHUNK_BYTES);
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
