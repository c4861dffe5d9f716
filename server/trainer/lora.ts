/**
 * Low-rank adaptation (arXiv 2106.09685): every matrix is W + s·B·A, W frozen, A (r, cols) and B (rows, r) learned. A starts as N(0, 1/cols) and B at zero, so that the
 * first step sees the model as it is.
 */
import { native, type Handle } from '../../kernels/index.js';
import { Random } from '../engine/random.js';
import { matricesOf, type DenseMatrix, type ModelWeights } from '../engine/weights.js';
import { Buffers } from './activations.js';
import { normal } from './gumbel.js';
import type { EffectiveWeight } from './layer-pass.js';
import type { WeightLearner } from './learner.js';
import { LoraMerge, type LoraAdapter, type LoraPair } from './lora-merge.js';
import { allocateParameter, type Parameter } from './optimizer.js';

export interface LoraSettings {
  readonly rank: number;
  /** s: what B·A is multiplied by. */
  readonly scaling: number;
  readonly seed: number;
}

interface State {
  readonly a: Parameter; // (rank, cols)
  readonly b: Parameter; // (rows, rank)
  readonly effective: Handle; // (rows, cols) bf16
}

export class Lora implements WeightLearner {
  readonly parameters: readonly Parameter[];
  private readonly buffers = new Buffers();
  private readonly states = new Map<string, State>();
  private readonly matrices: readonly DenseMatrix[];
  private readonly merge: LoraMerge;

  constructor(
    weights: ModelWeights,
    private readonly settings: LoraSettings,
  ) {
    const { rank, seed } = settings;
    this.matrices = matricesOf(weights);
    this.merge = new LoraMerge(this.buffers, this.matrices, rank);
    const random = new Random(seed);
    this.parameters = this.matrices.flatMap(({ name, rows, cols }) => {
      const a = allocateParameter(this.buffers, `${name}.lora_A`, rank * cols, true);
      const b = allocateParameter(this.buffers, `${name}.lora_B`, rows * rank, true);
      const start = Float32Array.from({ length: rank * cols }, () => normal(random) / Math.sqrt(cols));
      native.write(a.values, 0, start);
      this.states.set(name, { a, b, effective: this.buffers.alloc(rows * cols * 2) });
      return [a, b];
    });
  }

  get bytes(): number {
    return this.buffers.bytes;
  }

  prepare(): number {
    const { rank, scaling } = this.settings;
    for (const matrix of this.matrices) {
      const { a, b, effective } = this.state(matrix);
      this.merge.into(effective, matrix, a.values, b.values, rank, scaling);
    }
    return 0;
  }

  weight(matrix: DenseMatrix): EffectiveWeight {
    return { weight: this.state(matrix).effective, type: 'bf16' };
  }

  /** dA = s·Bᵀ·dW, dB = s·dW·Aᵀ. */
  accept(matrix: DenseMatrix, dw: Handle): void {
    const { rows, cols } = matrix;
    const { rank, scaling } = this.settings;
    const { a, b } = this.state(matrix);
    native.linearBackwardWeight(a.gradients, b.values, dw, rows, rank, cols, false);
    native.linear(b.gradients, dw, a.values, 'f32', rows, rank, cols);
    native.scaleBy(a.gradients, scaling, a.count);
    native.scaleBy(b.gradients, scaling, b.count);
  }

  /** A copy of what was learned. */
  adapter(): LoraAdapter {
    const { rank, scaling } = this.settings;
    const pairs = this.matrices.map((matrix): [string, LoraPair] => {
      const { a, b } = this.state(matrix);
      return [matrix.name, { rank, scaling, a: valuesOf(a), b: valuesOf(b) }];
    });
    return new Map(pairs);
  }

  dispose(): void {
    this.buffers.dispose();
  }

  private state(matrix: DenseMatrix): State {
    return this.states.get(matrix.name) as State;
  }
}

function valuesOf({ values, count }: Parameter): Float32Array {
  const copy = new Float32Array(count);
  native.read(values, 0, copy);
  return copy;
}
