/** The model that loads are for, as the loader thread sees it: its matrices, and whether the server still wants them. */
import { CodecError } from '../../codec/errors.js';
import type { MatrixShape } from '../../codec/context.js';
import type { BackendName } from '../../kernels/backend-types.js';
import type { Digest } from '../../codec/mask-set.js';
import { native, type Handle } from '../../kernels/index.js';
import type { MaskableMatrix } from '../engine/types.js';
import type { BuiltTask } from './built-task.js';

export interface LoaderSettings {
  readonly base: Digest;
  readonly matrices: readonly MaskableMatrix[];
  readonly threads: number;
  /** Where the matrices are, and the tasks are to be. */
  readonly backend: BackendName;
  /** The matrices are in host memory though. */
  readonly denseOnHost: boolean;
  /** (1), shared: set to 1 when loads should stop. */
  readonly giveUp: Int32Array;
}

/** The server is shutting down. */
export class GivenUp extends Error {}

export class LoadTarget {
  readonly base: Digest;
  readonly matrices: readonly MaskableMatrix[];
  /** Tasks are in host memory. */
  readonly onHost: boolean;
  /** Ops reach the matrices where they are. */
  readonly weightsInReach: boolean;
  private readonly byName: ReadonlyMap<string, MaskableMatrix>;
  private readonly giveUp: Int32Array;

  constructor({ base, matrices, backend, denseOnHost, giveUp }: LoaderSettings) {
    this.base = base;
    this.matrices = matrices;
    this.onHost = backend === 'cpu';
    this.weightsInReach = this.onHost || !denseOnHost;
    this.giveUp = giveUp;
    this.byName = new Map(matrices.map((matrix) => [matrix.name, matrix]));
  }

  /** Throws CodecError `bad-shape` if the model has no such matrix. */
  matrixOf({ name, rows, cols }: MatrixShape): MaskableMatrix {
    const matrix = this.byName.get(name);
    if (matrix?.rows === rows && matrix.cols === cols) return matrix;
    throw new CodecError('bad-shape', `expected a ${rows}x${cols} matrix ${name} in the model, but it has none`);
  }

  named(name: string): MaskableMatrix {
    return this.byName.get(name)!;
  }

  /** The frozen weights where ops reach them, for as long as `use` runs. Throws NoMemory. */
  withWeights<T>({ rows, cols, weight }: MaskableMatrix, task: BuiltTask, use: (weight: Handle) => T): T {
    if (this.weightsInReach) return use(weight);
    const bytes = rows * cols * 2;
    return task.withBuffer(bytes, (copy) => {
      native.copy(copy, 0, weight, 0, bytes);
      return use(copy);
    });
  }

  /** Between two matrices. Throws GivenUp. */
  refuseIfClosing(): void {
    if (Atomics.load(this.giveUp, 0) !== 0) throw new GivenUp('the server is shutting down');
  }
}
