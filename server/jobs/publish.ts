/** A learned mask → a version of its task, unless it should not be one. */
import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import type { Digest } from '../../codec/mask-set.js';
import { ServerError } from '../errors.js';
import type { Registry } from '../store/types.js';
import type { TrainFinished } from '../trainer/types.js';
import type { Learned } from './training-protocol.js';
import type { JobRecord, JobResult } from './types.js';

const CHUNK_BYTES = 256 << 10;
/** The store can't take a patch: its parent is gone, damaged, or the last of the longest chain. The mask itself may be sound. */
const PARENT_FAILS = new Set<string>(['parent_unknown', 'mask_corrupt', 'invalid_mask']);

/**
 * Publishes under the task's name, whatever it is at by now, unless the job was posted with a precondition: as a patch of its parent where the store still has that, which
 * it then keeps, else without. Publishing a second time (the process ended before the job was written down as finished) is harmless. Throws ServerError of
 * Registry.publish, and LostToPrior.
 */
export async function publishLearned(
  registry: Registry,
  { order, precondition, progress }: JobRecord,
  learned: Learned,
  maxBytes: number,
): Promise<JobResult> {
  const { finished } = progress;
  if (!finished) throw new Error('expected a finished run');
  if (!finished.publishable) throw new LostToPrior(finished);
  const options = { maxBytes, ...(precondition === undefined ? {} : { precondition }) };
  const { flat, patch } = learned;
  try {
    return await publishFirst(registry, order.task, patch ?? flat, flat, options);
  } catch (error) {
    if (!(error instanceof ServerError) || error.code !== 'precondition_failed') throw error;
    const { digest: current } = await registry.resolve(order.task).catch(() => ({ digest: undefined }));
    const published = [patch, flat].find((container) => container && digestOf(container) === current);
    if (!published) throw error;
    return { digest: digestOf(published), bytes: published.length, created: false };
  }
}

type PublishOptions = Omit<Parameters<Registry['publish']>[2], 'expect'>;

/** `first`, or where the store has no use for its parent, `flat`. */
async function publishFirst(
  registry: Registry,
  task: string,
  first: Uint8Array,
  flat: Uint8Array,
  options: PublishOptions,
): Promise<JobResult> {
  try {
    return await publishOne(registry, task, first, options);
  } catch (error) {
    if (first === flat || !(error instanceof ServerError) || !PARENT_FAILS.has(error.code)) throw error;
    return { ...(await publishOne(registry, task, flat, options)), flattened: error.message };
  }
}

async function publishOne(
  registry: Registry,
  task: string,
  container: Uint8Array,
  options: PublishOptions,
): Promise<JobResult> {
  const digest = digestOf(container);
  const { created } = await registry.publish(task, Readable.from(chunksOf(container)), { ...options, expect: digest });
  return { digest, bytes: container.length, created };
}

function digestOf(container: Uint8Array): Digest {
  return createHash('sha256').update(container).digest('hex');
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
