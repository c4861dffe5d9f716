/**
 * Worker thread: decodes a container tensor by tensor and compacts the shared dense weights under each mask. Native buffers are named
 * by numbers that hold in every thread, so a finished task is handed over by posting them.
 */
import { workerData } from 'node:worker_threads';
import { CodecError } from '../../codec/errors.js';
import type { Digest } from '../../codec/mask-set.js';
import { native, type Handle } from '../../kernels/index.js';
import type { CompactedMatrix, MaskableMatrix } from '../engine/types.js';
import { OpenContainers, type ContainerFile } from './open-containers.js';
import { answerCalls } from './worker-answers.js';

export interface LoaderSettings {
  readonly base: Digest;
  readonly matrices: readonly MaskableMatrix[];
  readonly threads: number;
  /** (1), shared: set to 1 when loads should stop. */
  readonly giveUp: Int32Array;
}

export interface LoadRequest {
  readonly path: string;
  /** What the container may need to be decoded. */
  readonly ancestors: readonly ContainerFile[];
}

export type LoadResult =
  | { readonly matrices: Record<string, CompactedMatrix>; readonly bytes: number }
  | { readonly failed: 'corrupt' | 'memory' | 'given up'; readonly message: string };

const { base, matrices, threads, giveUp } = workerData as LoaderSettings;
const matrixByName = new Map(matrices.map((matrix) => [matrix.name, matrix]));

native.setThreads(threads);
answerCalls<LoadRequest, LoadResult>((request) => load(request));

function load(request: LoadRequest): LoadResult {
  const allocated: Handle[] = [];
  try {
    return compactFile(request, allocated);
  } catch (error) {
    for (const handle of allocated) native.free(handle);
    if (error instanceof CodecError) return { failed: 'corrupt', message: error.message };
    if (error instanceof GivenUp) return { failed: 'given up', message: error.message };
    if (error instanceof NoMemory) return { failed: 'memory', message: error.message };
    throw error;
  }
}

function compactFile({ path, ancestors }: LoadRequest, allocated: Handle[]): LoadResult {
  const files = new OpenContainers(ancestors, matrices);
  try {
    const reader = files.reader(path, base);
    const compacted: Record<string, CompactedMatrix> = {};
    let bytes = 0;
    reader.summary.tensors.forEach(({ name, rows, cols }, index) => {
      if (Atomics.load(giveUp, 0) !== 0) throw new GivenUp('the server is shutting down');
      const matrix = matrixByName.get(name);
      if (matrix?.rows !== rows || matrix.cols !== cols) {
        throw new CodecError('bad-shape', `expected a ${rows}x${cols} matrix ${name} in the model, but it has none`);
      }
      compacted[name] = compact(matrix, reader.nibbles(index), allocated);
      bytes += (rows * cols) / 8 + rows * cols;
    });
    return { matrices: compacted, bytes };
  } finally {
    files.close();
  }
}

/** The packed form of one matrix. Its nibbles are needed only meanwhile. */
function compact({ rows, cols, weight }: MaskableMatrix, nibbles: Uint8Array, allocated: Handle[]): CompactedMatrix {
  const packed = allocate((rows * cols * 9) / 8);
  allocated.push(packed);
  const meta = allocate((rows * cols) / 8);
  try {
    native.write(meta, 0, nibbles);
    native.compress24(packed, weight, meta, rows, cols);
  } finally {
    native.free(meta);
  }
  return { packed };
}

function allocate(bytes: number): Handle {
  try {
    return native.alloc(bytes);
  } catch (error) {
    throw new NoMemory(error instanceof Error ? error.message : String(error));
  }
}

class GivenUp extends Error {}

class NoMemory extends Error {}
