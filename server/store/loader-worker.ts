/**
 * Worker thread: containers, or nibbles that were decoded before, to tasks that the engine can run with. A tensor at a time, so that no whole
 * mask set is in memory between. Native buffers are named by numbers that hold in every thread, so a finished task is handed over by posting them.
 */
import { workerData } from 'node:worker_threads';
import { CodecError } from '../../codec/errors.js';
import type { Digest } from '../../codec/mask-set.js';
import { native, type BackendName, type Handle } from '../../kernels/index.js';
import type { CompactedMatrix, MaskableMatrix } from '../engine/types.js';
import { BuiltTask, NoMemory } from './built-task.js';
import { CompactedParent } from './compacted-parent.js';
import { OpenContainers, type ContainerFile } from './open-containers.js';
import { answerCalls } from './worker-answers.js';

export interface LoaderSettings {
  readonly base: Digest;
  readonly matrices: readonly MaskableMatrix[];
  readonly threads: number;
  /** Where the matrices are, and the tasks are to be. */
  readonly backend: BackendName;
  /** (1), shared: set to 1 when loads should stop. */
  readonly giveUp: Int32Array;
}

export type LoadRequest =
  /** Container → compacted copy. `ancestors`: what it may need to be decoded. */
  | { readonly type: 'load'; readonly path: string; readonly ancestors: readonly ContainerFile[] }
  /** Container → patches of the compacted `parent`, if they take at most `limitBytes`. */
  | {
      readonly type: 'patch';
      readonly path: string;
      readonly ancestors: readonly ContainerFile[];
      readonly parent: { readonly content: Digest; readonly matrices: Readonly<Record<string, CompactedMatrix>> };
      readonly limitBytes: number;
    }
  /** Nibbles → compacted copy. */
  | { readonly type: 'compact'; readonly nibbles: Readonly<Record<string, Handle>> }
  /** Compacted copy → nibbles. */
  | { readonly type: 'extract'; readonly matrices: Readonly<Record<string, CompactedMatrix>> };

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

const { base, matrices, threads, backend, giveUp } = workerData as LoaderSettings;
const matrixByName = new Map(matrices.map((matrix) => [matrix.name, matrix]));

native.useBackend(backend);
native.setThreads(threads);
answerCalls<LoadRequest, LoadResult>((request) => answer(request));

function answer(request: LoadRequest): LoadResult {
  const task = new BuiltTask();
  try {
    return build(request, task);
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
    case 'load':
      return compactContainer(request, task);
    case 'patch':
      return patchContainer(request, task);
    case 'compact':
      return compactNibbles(request.nibbles, task);
    case 'extract':
      return extractNibbles(request.matrices, task);
  }
}

function compactContainer({ path, ancestors }: LoadRequest & { type: 'load' }, task: BuiltTask): LoadResult {
  const files = new OpenContainers(ancestors, matrices);
  try {
    const reader = task.decoding(() => files.reader(path, base));
    const compacted: Record<string, CompactedMatrix> = {};
    reader.summary.tensors.forEach((tensor, index) => {
      const matrix = matrixOf(tensor);
      const nibbles = task.decoding(() => reader.nibbles(index));
      compacted[matrix.name] = task.compacting(() =>
        task.withBuffer(nibbles.length, (meta) => {
          native.write(meta, 0, nibbles);
          return compact(matrix, meta, task);
        }),
      );
    });
    return { matrices: compacted, bytes: task.bytes, ...task.times };
  } finally {
    files.close();
  }
}

function patchContainer(request: LoadRequest & { type: 'patch' }, task: BuiltTask): LoadResult {
  const { path, ancestors, parent, limitBytes } = request;
  const compacted = new CompactedParent(parent.content, parent.matrices, { base, matrices });
  const files = new OpenContainers(ancestors, matrices, (content) =>
    content === parent.content ? compacted.maskSet : undefined,
  );
  try {
    const reader = task.decoding(() => files.reader(path, base));
    const { tensors } = reader.summary;
    if (!compacted.covers(tensors)) throw new TooManyChanges('it covers other matrices than its parent');
    const isCodedAgainstIt = reader.needs.parent === parent.content;
    const patches: Record<string, Handle> = {};
    tensors.forEach((tensor, index) => {
      const matrix = matrixOf(tensor);
      if (isCodedAgainstIt && tensor.changes === 0) return;
      const { rows, cols, weight } = matrix;
      const { packed } = parent.matrices[matrix.name]!;
      const change = task.decoding(() =>
        isCodedAgainstIt && tensor.changes !== undefined ? reader.patch(index) : reader.nibbles(index),
      );
      task.compacting(() =>
        task.withBuffer((rows * cols) / 8, (meta) => {
          compacted.writeChild(meta, matrix, change);
          const bytes = native.patchBytes24(packed, meta, rows, cols);
          if (task.bytes + bytes > limitBytes) {
            throw new TooManyChanges(`expected patches of at most ${limitBytes} bytes, got more`);
          }
          const patch = task.own(bytes);
          buildPatch(() => native.buildPatch24(patch, packed, weight, meta, rows, cols));
          patches[matrix.name] = patch;
        }),
      );
    });
    return { patches, bytes: task.bytes, ...task.times };
  } finally {
    files.close();
  }
}

function compactNibbles(nibbles: Readonly<Record<string, Handle>>, task: BuiltTask): LoadResult {
  const compacted: Record<string, CompactedMatrix> = {};
  for (const [name, meta] of Object.entries(nibbles)) {
    const matrix = matrixByName.get(name)!;
    refuseIfClosing();
    compacted[name] = task.compacting(() => compactFromHost(matrix, meta, task));
  }
  return { matrices: compacted, bytes: task.bytes, ...task.times };
}

function extractNibbles(compacted: Readonly<Record<string, CompactedMatrix>>, task: BuiltTask): LoadResult {
  const nibbles: Record<string, Handle> = {};
  for (const [name, { packed }] of Object.entries(compacted)) {
    const { rows, cols } = matrixByName.get(name)!;
    refuseIfClosing();
    nibbles[name] = extract(packed, rows, cols, task);
  }
  return { nibbles, bytes: task.bytes };
}

function compact({ rows, cols, weight }: MaskableMatrix, meta: Handle, task: BuiltTask): CompactedMatrix {
  const packed = task.own(native.packedBytes(rows, cols));
  native.compress24(packed, weight, meta, rows, cols);
  return { packed };
}

/** Nibbles wait in host memory, wherever tasks run. */
function compactFromHost(matrix: MaskableMatrix, nibbles: Handle, task: BuiltTask): CompactedMatrix {
  if (backend === 'cpu') return compact(matrix, nibbles, task);
  const bytes = (matrix.rows * matrix.cols) / 8;
  return task.withBuffer(bytes, (meta) => {
    native.copy(meta, 0, nibbles, 0, bytes);
    return compact(matrix, meta, task);
  });
}

function extract(packed: Handle, rows: number, cols: number, task: BuiltTask): Handle {
  const bytes = (rows * cols) / 8;
  const nibbles = task.ownOnHost(bytes);
  if (backend === 'cpu') {
    native.nibbles24(nibbles, packed, rows, cols);
  } else {
    task.withBuffer(bytes, (meta) => {
      native.nibbles24(meta, packed, rows, cols);
      native.copy(nibbles, 0, meta, 0, bytes);
    });
  }
  return nibbles;
}

/** Weights that are not finite can't be taken out of a sum: such a child gets a copy of its own. */
function buildPatch(build: () => void): void {
  try {
    build();
  } catch (error) {
    throw new TooManyChanges(error instanceof Error ? error.message : String(error));
  }
}

/** Throws if the model has no such matrix, or the server is shutting down. */
function matrixOf({ name, rows, cols }: { name: string; rows: number; cols: number }): MaskableMatrix {
  refuseIfClosing();
  const matrix = matrixByName.get(name);
  if (matrix?.rows === rows && matrix.cols === cols) return matrix;
  throw new CodecError('bad-shape', `expected a ${rows}x${cols} matrix ${name} in the model, but it has none`);
}

function refuseIfClosing(): void {
  if (Atomics.load(giveUp, 0) !== 0) throw new GivenUp('the server is shutting down');
}

class GivenUp extends Error {}

class TooManyChanges extends Error {}
