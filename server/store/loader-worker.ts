/**
 * Worker thread: containers, or nibbles that were decoded before, to tasks that the engine can run with. Native buffers are named by numbers that
 * hold in every thread, so a finished task is handed over by posting them.
 */
import { workerData } from 'node:worker_threads';
import { CodecError } from '../../codec/errors.js';
import { native, type Handle } from '../../kernels/index.js';
import type { CompactedMatrix, MaskableMatrix } from '../engine/types.js';
import { BuiltTask, NoMemory, type Copy } from './built-task.js';
import { compactContainer } from './compact-container.js';
import { GivenUp, LoadTarget, type LoaderSettings } from './load-target.js';
import type { ContainerFile } from './open-containers.js';
import { patchContainer, TooManyChanges, type PatchRequest } from './patch-container.js';
import { answerCalls } from './worker-answers.js';

export type LoadRequest =
  /** Container → compacted copy, in `spare` where there is one. `ancestors`: what it may need to be decoded. */
  | {
      readonly type: 'load';
      readonly path: string;
      readonly ancestors: readonly ContainerFile[];
      readonly spare: Copy | undefined;
    }
  /** Container → patches of a compacted parent. */
  | ({ readonly type: 'patch' } & PatchRequest)
  /** Nibbles → compacted copy, in `spare` where there is one. */
  | { readonly type: 'compact'; readonly nibbles: Readonly<Record<string, Handle>>; readonly spare: Copy | undefined }
  /** Compacted copy → nibbles. */
  | { readonly type: 'extract'; readonly matrices: Copy };

/** How long the two halves of a load took. */
export interface LoadTimes {
  readonly decodeMs: number;
  readonly compactMs: number;
}

export type LoadResult =
  | ({ readonly matrices: Record<string, CompactedMatrix>; readonly bytes: number } & LoadTimes)
  | ({ readonly patches: Record<string, Handle>; readonly bytes: number } & LoadTimes)
  | { readonly nibbles: Record<string, Handle>; readonly bytes: number }
  | { readonly failed: 'corrupt' | 'memory' | 'given up' | 'too many changes'; readonly message: string };

const settings = workerData as LoaderSettings;
const target = new LoadTarget(settings);

native.useBackend(settings.backend);
native.giveWay();
native.setThreads(settings.threads);
answerCalls<LoadRequest, LoadResult>((request) => answer(request));

function answer(request: LoadRequest): LoadResult {
  const task = new BuiltTask('spare' in request ? request.spare : undefined);
  try {
    const result = build(request, task);
    task.finish();
    return result;
  } catch (error) {
    task.abandon();
    if (error instanceof CodecError) return { failed: 'corrupt', message: error.message };
    if (error instanceof GivenUp) return { failed: 'given up', message: error.message };
    if (error instanceof TooManyChanges) return { failed: 'too many changes', message: error.message };
    if (error instanceof NoMemory) return { failed: 'memory', message: error.message };
    throw error;
  }
}

function build(request: LoadRequest, task: BuiltTask): LoadResult {
  switch (request.type) {
    case 'load': {
      const matrices = compactContainer(request, task, target);
      return { matrices, bytes: task.bytes, ...task.times };
    }
    case 'patch': {
      const patches = patchContainer(request, task, target);
      return { patches, bytes: task.bytes, ...task.times };
    }
    case 'compact':
      return compactNibbles(request.nibbles, task);
    case 'extract':
      return extractNibbles(request.matrices, task);
  }
}

function compactNibbles(nibbles: Readonly<Record<string, Handle>>, task: BuiltTask): LoadResult {
  const matrices = Object.keys(nibbles).map((name) => target.named(name));
  const compacted = task.ownCopy(matrices);
  for (const matrix of matrices) {
    target.refuseIfClosing();
    const { packed } = compacted[matrix.name]!;
    task.compacting(() => compactFromHost(packed, matrix, nibbles[matrix.name]!, task));
  }
  return { matrices: compacted, bytes: task.bytes, ...task.times };
}

function extractNibbles(compacted: Copy, task: BuiltTask): LoadResult {
  const matrices = Object.keys(compacted).map((name) => target.named(name));
  const nibbles = task.ownNibbles(matrices);
  for (const matrix of matrices) {
    target.refuseIfClosing();
    extractToHost(nibbles[matrix.name]!, matrix, compacted[matrix.name]!, task);
  }
  return { nibbles, bytes: task.bytes };
}

/** Nibbles wait in host memory, wherever tasks run. */
function compactFromHost(packed: Handle, matrix: MaskableMatrix, nibbles: Handle, task: BuiltTask): void {
  const { rows, cols } = matrix;
  if (target.onHost) return native.compress24(packed, matrix.weight, nibbles, rows, cols);
  const bytes = (rows * cols) / 8;
  task.withBuffer(bytes, (meta) => {
    native.copy(meta, 0, nibbles, 0, bytes);
    target.withWeights(matrix, task, (weight) => native.compress24(packed, weight, meta, rows, cols));
  });
}

function extractToHost(
  nibbles: Handle,
  { rows, cols }: MaskableMatrix,
  { packed }: CompactedMatrix,
  task: BuiltTask,
): void {
  if (target.onHost) return native.nibbles24(nibbles, packed, rows, cols);
  const bytes = (rows * cols) / 8;
  task.withBuffer(bytes, (meta) => {
    native.nibbles24(meta, packed, rows, cols);
    native.copy(nibbles, 0, meta, 0, bytes);
  });
}
