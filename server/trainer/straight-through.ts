/**
 * Straight-through top-2: four scores a group, the two largest are kept; the gradient of the hard mask goes to the scores unchanged (∂loss/∂s = dW ⊙ W). A relative of
 * RoI's one logit a weight (arXiv 2608.23048), without sampling. Scores start at ± margin around the prior's mask.
 */
import { native, type Handle } from '../../kernels/index.js';
import { matricesOf, type DenseMatrix, type ModelWeights } from '../engine/weights.js';
import { Buffers } from './activations.js';
import { ChurnPenalty, type ChurnSettings, type PricedMatrix } from './churn-penalty.js';
import type { EffectiveWeight } from './layer-pass.js';
import type { Learner } from './learner.js';
import { allocateParameter, type Parameter } from './optimizer.js';

interface State {
  readonly parameter: Parameter; // (groups, 4)
  readonly meta: Handle; // (rows, cols/8)
  readonly masked: Handle; // (rows, cols) bf16
}

/** Bytes a weight beside its score: masked copy, nibble. */
export const STRAIGHT_THROUGH_BYTES_PER_WEIGHT = 2 + 1 / 8;

export interface StraightThroughOptions {
  /** Whether the optimizer's β1 is above 0. */
  readonly momentum: boolean;
  /** What leaving the prior costs. */
  readonly churn?: ChurnSettings;
}

export class StraightThrough implements Learner {
  readonly parameters: readonly Parameter[];
  private readonly buffers = new Buffers();
  private readonly states = new Map<string, State>();
  private readonly matrices: readonly DenseMatrix[];
  private readonly penalty: ChurnPenalty | undefined;

  /** `prior`: nibbles of the mask to start from. `margin`: half the distance between kept and pruned scores. */
  constructor(
    weights: ModelWeights,
    prior: (matrix: DenseMatrix) => Uint8Array,
    margin: number,
    { momentum, churn }: StraightThroughOptions,
  ) {
    this.matrices = matricesOf(weights);
    this.parameters = this.matrices.map((matrix) => {
      const { name, rows, cols } = matrix;
      const parameter = allocateParameter(this.buffers, name, rows * cols, momentum);
      const nibbles = prior(matrix);
      native.write(parameter.values, 0, priorScores(nibbles, margin));
      const meta = this.buffers.alloc(nibbles.length);
      native.write(meta, 0, nibbles);
      this.states.set(name, { parameter, meta, masked: this.buffers.alloc(rows * cols * 2) });
      return parameter;
    });
    const priced = (): PricedMatrix[] =>
      this.matrices.map((matrix) => {
        const { parameter, meta } = this.state(matrix);
        return { parameter, meta, prior: prior(matrix) };
      });
    this.penalty = churn && new ChurnPenalty(this.buffers, priced(), churn);
  }

  get bytes(): number {
    return this.buffers.bytes;
  }

  /** The penalty on the step before comes first, so that a resumed run, whose checkpoint lies between the two, does the same. */
  prepare(step: number): number {
    if (step > 0) this.penalty?.afterStep(step - 1);
    this.penalty?.bound();
    for (const matrix of this.matrices) {
      const { parameter, meta, masked } = this.state(matrix);
      native.topTwo(meta, parameter.values, parameter.count / 4);
      native.select24(masked, matrix.weight, meta, matrix.rows, matrix.cols);
    }
    return 0;
  }

  weight(matrix: DenseMatrix): EffectiveWeight {
    return { weight: this.state(matrix).masked, type: 'bf16' };
  }

  accept(matrix: DenseMatrix, dw: Handle): void {
    this.penalty?.beforeUpdate();
    const { parameter } = this.state(matrix);
    native.mulBf16(parameter.gradients, dw, matrix.weight, parameter.count);
  }

  nibbles(matrix: DenseMatrix): Uint8Array {
    this.penalty?.bound();
    const { parameter, meta } = this.state(matrix);
    native.topTwo(meta, parameter.values, parameter.count / 4);
    const nibbles = new Uint8Array(parameter.count / 8);
    native.read(meta, 0, nibbles);
    return nibbles;
  }

  dispose(): void {
    this.buffers.dispose();
  }

  private state(matrix: DenseMatrix): State {
    return this.states.get(matrix.name) as State;
  }
}

/** +margin where kept, −margin where pruned. */
function priorScores(nibbles: Uint8Array, margin: number): Float32Array {
  const scores = new Float32Array(nibbles.length * 8).fill(-margin);
  for (let group = 0; group < nibbles.length * 2; group++) {
    const nibble = ((nibbles[group >> 1] as number) >> ((group & 1) * 4)) & 15;
    scores[group * 4 + (nibble & 3)] = margin;
    scores[group * 4 + (nibble >> 2)] = margin;
  }
  return scores;
}
