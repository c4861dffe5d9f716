/** Containers → tasks in memory, in a worker thread: no load stalls another task's tokens. */
import type { Digest } from '../../codec/mask-set.js';
import { native, type Handle } from '../../kernels/index.js';
import { packedBytesOf, type ModelInfo, type TaskWeights } from '../engine/types.js';
import { ServerError } from '../errors.js';
import type { LoaderSettings } from './load-target.js';
import type { LoadRequest, LoadResult, LoadTimes } from './loader-worker.js';
import type { ContainerFile } from './open-containers.js';
import { ownedBytes, SpareCopy } from './spare-copy.js';
import { WorkerCalls } from './worker-calls.js';

/** A task's masks as canonical nibbles, each (rows · cols/8) bytes. */
export interface DecodedTask {
  readonly digest: Digest;
  readonly nibbles: Readonly<Record<string, Handle>>;
  readonly bytes: number;
}

/** A task in memory, and what it took. */
export type LoadedTask = TaskWeights & LoadTimes;

/** A container and what it may need to be decoded. */
export interface LoadSource {
  readonly path: string;
  readonly ancestors: readonly ContainerFile[];
}

/** After a throw nothing is left allocated. Throws ServerError mask_corrupt, out_of_memory, shutting_down. */
export interface Loader {
  /** Compacts the container at `path`, which has been verified. The matrices are the caller's to free. */
  load(digest: Digest, path: string, ancestors?: readonly ContainerFile[]): Promise<LoadedTask>;
  /**
   * A child as patches of its compacted parent, whose matrices it shares: its own are only the patches. `content`: the parent's. undefined if
   * they would take more than `limitBytes`, or it covers other matrices.
   */
  patch(
    digest: Digest,
    source: LoadSource,
    parent: { readonly content: Digest; readonly weights: TaskWeights },
    limitBytes: number,
  ): Promise<LoadedTask | undefined>;
  /** Compacts nibbles, which stay the caller's. */
  compact(task: DecodedTask): Promise<LoadedTask>;
  /** The nibbles of a compacted task, which stays the caller's. */
  extract(weights: TaskWeights): Promise<DecodedTask>;
  free(weights: TaskWeights): void;
  freeDecoded(task: DecodedTask): void;
  /** Gives up loads in flight and ends the thread. */
  close(): Promise<void>;
}

export interface LoaderOptions {
  /** That a load may use. 0, the default: all cores. An op of the engine waits for the slowest of its own, so that few would hold it up for longer. */
  readonly threads?: number;
  /** Of all its tasks together, for which a copy's memory may be kept when it is freed. 0, the default: none is. */
  readonly budgetBytes?: number;
}

export function createLoader(
  model: Pick<ModelInfo, 'base' | 'maskable' | 'backend' | 'denseOnHost'>,
  { threads = 0, budgetBytes = 0 }: LoaderOptions = {},
): Loader {
  const giveUp = new Int32Array(new SharedArrayBuffer(4));
  const { base, maskable: matrices, backend = 'cpu', denseOnHost = false } = model;
  const settings: LoaderSettings = { base, matrices, threads, backend, denseOnHost, giveUp };
  const script = new URL('./loader-worker.js', import.meta.url);
  const calls = new WorkerCalls<LoadRequest, LoadResult>('mask loader', script, settings);
  return new ThreadLoader(calls, giveUp, copyBytes(model), new SpareCopy(budgetBytes));
}

/** Bytes of a compacted copy of every matrix. */
export function copyBytes({ maskable }: Pick<ModelInfo, 'maskable'>): number {
  return maskable.reduce((sum, matrix) => sum + packedBytesOf(matrix), 0);
}

class ThreadLoader implements Loader {
  private readonly inFlight = new Set<Promise<unknown>>();

  constructor(
    private readonly calls: WorkerCalls<LoadRequest, LoadResult>,
    private readonly giveUp: Int32Array,
    private readonly copyBytes: number,
    private readonly spare: SpareCopy,
  ) {}

  load(digest: Digest, path: string, ancestors: readonly ContainerFile[] = []): Promise<LoadedTask> {
    const spare = this.spare.take();
    return this.allocating(this.copyBytes, async () =>
      compactedOf(digest, await this.call({ type: 'load', path, ancestors, spare })),
    );
  }

  patch(
    digest: Digest,
    { path, ancestors }: LoadSource,
    { content, weights: { matrices } }: { readonly content: Digest; readonly weights: TaskWeights },
    limitBytes: number,
  ): Promise<LoadedTask | undefined> {
    const parent = { content, matrices };
    return this.allocating(limitBytes, async () => {
      const result = await this.call({ type: 'patch', path, ancestors, parent, limitBytes });
      if ('patches' in result) return { digest, matrices, ...result };
      return 'failed' in result && result.failed === 'too many changes' ? undefined : unexpected(digest, result);
    });
  }

  compact({ digest, nibbles }: DecodedTask): Promise<LoadedTask> {
    const spare = this.spare.take();
    return this.allocating(this.copyBytes, async () =>
      compactedOf(digest, await this.call({ type: 'compact', nibbles, spare })),
    );
  }

  async extract({ digest, matrices }: TaskWeights): Promise<DecodedTask> {
    const result = await this.call({ type: 'extract', matrices });
    return 'nibbles' in result ? { digest, ...result } : unexpected(digest, result);
  }

  free(weights: TaskWeights): void {
    this.spare.free(weights);
  }

  freeDecoded({ nibbles }: DecodedTask): void {
    for (const handle of Object.values(nibbles)) native.free(handle);
  }

  async close(): Promise<void> {
    // The thread frees what it has allocated so far before it can be ended.
    Atomics.store(this.giveUp, 0, 1);
    await Promise.allSettled(this.inFlight);
    await this.calls.close();
    this.spare.close();
  }

  /** A load of at most `bytes`, what it made of them counted until it is freed. */
  private async allocating<T extends LoadedTask | undefined>(bytes: number, load: () => Promise<T>): Promise<T> {
    this.spare.reserve(bytes);
    let used = 0;
    try {
      const loaded = await load();
      if (loaded) used = ownedBytes(loaded);
      return loaded;
    } finally {
      this.spare.giveBack(bytes - used);
    }
  }

  private async call(request: LoadRequest): Promise<LoadResult> {
    const call = this.calls.call(request);
    this.inFlight.add(call);
    try {
      return await call;
    } finally {
      this.inFlight.delete(call);
    }
  }
}

function compactedOf(digest: Digest, result: LoadResult): LoadedTask {
  return 'matrices' in result ? { digest, ...result } : unexpected(digest, result);
}

function unexpected(digest: Digest, result: LoadResult): never {
  if (!('failed' in result)) throw new Error(`expected another answer of the mask loader to ${digest}`);
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
    case 'too many changes':
      throw new Error(`expected no limit of changes in loading ${digest}`);
  }
}
