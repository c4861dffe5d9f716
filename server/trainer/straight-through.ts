/**
 * Straight-through top-n of m: m scores a group, the n largest are kept; the gradient of the hard mask goes to the scores unchanged (∂loss/∂s = dW ⊙ W). A relative of
 * RoI's one logit a weight (arXiv 2608.23048), without sampling. Scores start at ± margin around the prior's mask.
 */
import { native, type Handle } from '../../kernels/index.js';
import type { PatternTable } from '../../codec/pattern.js';
import { matricesOf, type DenseMatrix, type ModelWeights } from '../engine/weights.js';
import { Buffers } from './activations.js';
import { ChurnPenalty, type ChurnSettings, type PricedMatrix } from './churn-penalty.js';
import type { EffectiveWeight } from './layer-pass.js';
import type { Learner } from './learner.js';
import { TWO_OF_FOUR } from './n-of-m.js';
import { allocateParameter, type Parameter } from './optimizer.js';
import { scoresOfMask, topScoresBytesPerWeight, topScoresOf, type TopScores } from './top-scores.js';

interface State {
  readonly parameter: Parameter; // (groups, m)
  readonly top: TopScores;
  readonly masked: Handle; // (rows, cols) bf16
}

/** Bytes a weight beside its score: masked copy, and what the mask needs. */
export function straightThroughBytesPerWeight(pattern: PatternTable): number {
  return 2 + topScoresBytesPerWeight(pattern);
}

export interface StraightThroughOptions {
  /** Whether the optimizer's β1 is above 0. */
  readonly momentum: boolean;
  /** Undefined: 2:4. */
  readonly pattern?: PatternTable;
  /** What leaving the prior costs. */
  readonly churn?: ChurnSettings;
}

export class StraightThrough implements Learner {
  readonly parameters: readonly Parameter[];
  private readonly buffers = new Buffers();
  private readonly states = new Map<string, State>();
  private readonly penalty: ChurnPenalty | undefined;

  /** `prior`: canonical codes of the mask to start from. `margin`: half the distance between kept and pruned scores. */
  constructor(
    weights: ModelWeights,
    prior: (matrix: DenseMatrix) => Uint8Array,
    margin: number,
    { momentum, pattern = TWO_OF_FOUR, churn }: StraightThroughOptions,
  ) {
    const priced: PricedMatrix[] = [];
    this.parameters = matricesOf(weights).map((matrix) => {
      const { name, rows, cols } = matrix;
      const codes = prior(matrix);
      const parameter = allocateParameter(this.buffers, name, rows * cols, momentum);
      native.write(parameter.values, 0, scoresOfMask(pattern, codes, margin));
      const top = topScoresOf(this.buffers, pattern, matrix, parameter);
      this.states.set(name, { parameter, top, masked: this.buffers.alloc(rows * cols * 2) });
      priced.push({ parameter, prior: codes, codes: () => top.codes() });
      return parameter;
    });
    this.penalty = churn && new ChurnPenalty(this.buffers, priced, churn, pattern);
  }

  get bytes(): number {
    return this.buffers.bytes;
  }

  /** The penalty on the step before comes first, so that a resumed run, whose checkpoint lies between the two, does the same. */
  prepare(step: number): number {
    if (step > 0) this.penalty?.afterStep(step - 1);
    this.penalty?.bound();
    for (const { top, masked } of this.states.values()) top.select(masked);
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
    return this.state(matrix).top.codes();
  }

  dispose(): void {
    this.buffers.dispose();
  }

  private state(matrix: DenseMatrix): State {
    return this.states.get(matrix.name) as State;
  }
}
