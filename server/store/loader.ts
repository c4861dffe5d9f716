/** Containers → compacted tasks, in a worker thread: no load stalls another task's tokens. */
import type { Digest } from '../../codec/mask-set.js';
import { native } from '../../kernels/index.js';
import type { ModelInfo, TaskWeights } from '../engine/types.js';
import { ServerError } from '../errors.js';
import type { LoaderSettings, LoadRequest, LoadResult } from './loader-worker.js';
import type { ContainerFile } from './open-containers.js';
import { WorkerCalls } from './worker-calls.js';

export interface Loader {
  /**
   * Compacts the container at `path`, which has been verified; `ancestors`: what it may need to be decoded. The matrices are the caller's to
   * free. Throws ServerError mask_corrupt, out_of_memory, shutting_down; after a throw nothing is left allocated.
   */
  load(digest: Digest, path: string, ancestors?: readonly ContainerFile[]): Promise<TaskWeights>;
  free(weights: TaskWeights): void;
  /** Gives up loads in flight and ends the thread. */
  close(): Promise<void>;
}

/** @param threads that compress24 may use: one leaves the other cores to the engine */
export function createLoader(model: Pick<ModelInfo, 'base' | 'maskable'>, threads = 1): Loader {
  const giveUp = new Int32Array(new SharedArrayBuffer(4));
  const settings: LoaderSettings = { base: model.base, matrices: model.maskable, threads, giveUp };
  const calls = new WorkerCalls<LoadRequest, LoadResult>(
    'mask loader',
    new URL('./loader-worker.js', import.meta.url),
    settings,
  );
  const inFlight = new Set<Promise<unknown>>();
  return {
    load: async (digest, path, ancestors = []) => {
      const call = calls.call({ path, ancestors });
      inFlight.add(call);
      try {
        return weightsOf(digest, await call);
      } finally {
        inFlight.delete(call);
      }
    },
    free: ({ matrices }) => {
      for (const { packed } of Object.values(matrices)) native.free(packed);
    },
    close: async () => {
      // The thread frees what it has allocated so far before it can be ended.
      Atomics.store(giveUp, 0, 1);
      await Promise.allSettled(inFlight);
      await calls.close();
    },
  };
}

function weightsOf(digest: Digest, result: LoadResult): TaskWeights {
  if ('matrices' in result) return { digest, matrices: result.matrices, bytes: result.bytes };
  switch (result.failed) {
    case 'corrupt':
      throw new ServerError(
        'mask_corrupt',
        `the container sha256:${digest} can't be decoded: ${result.message}; publish it again or roll its task back`,
      );
    case 'memory':
      throw new ServerError(
        'out_of_memory',
        `no memory to compact the task sha256:${digest}: ${result.message}; lower --cache-bytes or serve fewer tasks`,
      );
    case 'given up':
      throw new ServerError('shutting_down', 'the server is shutting down');
  }
}
