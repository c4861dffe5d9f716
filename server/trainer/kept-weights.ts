/**
 * Sparse fine-tuning: the mask is fixed, the kept weights are learned (fp32 master copies, bf16 in the pass); pruned positions keep their values, so that a task may
 * swap them in later.
 */
import { native, type Handle } from '../../kernels/index.js';
import { matricesOf, type DenseMatrix, type ModelWeights } from '../engine/weights.js';
import { Buffers } from './activations.js';
import type { EffectiveWeight } from './layer-pass.js';
import type { Learner } from './learner.js';
import { allocateParameter, type Parameter } from './optimizer.js';

interface State {
  readonly parameter: Parameter; // (rows, cols)
  readonly meta: Handle; // (rows, cols/8)
  readonly masked: Handle; // (rows, cols) bf16
}

/** Bytes a weight: master, gradient, two moments, masked copy, nibble. */
export const KEPT_WEIGHTS_BYTES_PER_WEIGHT = 16 + 2 + 1 / 8;

export class KeptWeights implements Learner {
  readonly parameters: readonly Parameter[];
  private readonly buffers = new Buffers();
  private readonly states = new Map<string, State>();
  private readonly matrices: readonly DenseMatrix[];

  /** `start`: (rows, cols) f32 values to start from, written into the given buffer. */
  constructor(
    weights: ModelWeights,
    mask: (matrix: DenseMatrix) => Uint8Array,
    start: (matrix: DenseMatrix, into: Handle) => void,
  ) {
    this.matrices = matricesOf(weights);
    this.parameters = this.matrices.map((matrix) => {
      const { name, rows, cols } = matrix;
      const parameter = allocateParameter(this.buffers, name, rows * cols, true);
      start(matrix, parameter.values);
      const nibbles = mask(matrix);
      const meta = this.buffers.alloc(nibbles.length);
      native.write(meta, 0, nibbles);
      this.states.set(name, { parameter, meta, masked: this.buffers.alloc(rows * cols * 2) });
      return parameter;
    });
  }

  get bytes(): number {
    return this.buffers.bytes;
  }

  prepare(): number {
    for (const matrix of this.matrices) {
      const { parameter, meta, masked } = this.state(matrix);
      native.select24F32(masked, parameter.values, meta, matrix.rows, matrix.cols);
    }
    return 0;
  }

  weight(matrix: DenseMatrix): EffectiveWeight {
    return { weight: this.state(matrix).masked, type: 'bf16' };
  }

  accept(matrix: DenseMatrix, dw: Handle): void {
    const { parameter, meta } = this.state(matrix);
    native.keep24F32(dw, meta, matrix.rows, matrix.cols);
    native.zero(parameter.gradients);
    native.add(parameter.gradients, dw, parameter.count);
  }

  nibbles(matrix: DenseMatrix): Uint8Array {
    const nibbles = new Uint8Array((matrix.rows * matrix.cols) / 8);
    native.read(this.state(matrix).meta, 0, nibbles);
    return nibbles;
  }

  dispose(): void {
    this.buffers.dispose();
  }

  private state(matrix: DenseMatrix): State {
    return this.states.get(matrix.name) as State;
  }
}
