/** Straight-through top-n of m scores for the patterns that no kernel runs (1:4, 4:8): as straight-through.ts, with masked dense weights made by plain loops at each step. */
import { native, type Handle } from '../../kernels/index.js';
import type { PatternTable } from '../../codec/pattern.js';
import { matricesOf, type DenseMatrix, type ModelWeights } from '../engine/weights.js';
import { Buffers } from './activations.js';
import { ChurnPenalty } from './churn-penalty.js';
import type { EffectiveWeight } from './layer-pass.js';
import type { Learner } from './learner.js';
import { bestPatterns, codesOf, maskDense, symbolsOf } from './n-of-m.js';
import { allocateParameter, type Parameter } from './optimizer.js';
import type { StraightThroughOptions } from './straight-through.js';

interface State {
  readonly parameter: Parameter; // (groups, m)
  readonly masked: Handle; // (rows, cols) bf16
}

/** Bytes a weight beside its score: masked copy. */
export const STRAIGHT_THROUGH_DENSE_BYTES_PER_WEIGHT = 2;

export class StraightThroughDense implements Learner {
  readonly parameters: readonly Parameter[];
  private readonly buffers = new Buffers();
  private readonly states = new Map<string, State>();
  private readonly matrices: readonly DenseMatrix[];
  private readonly penalty: ChurnPenalty | undefined;

  /** `prior`: canonical codes of the mask to start from. `margin`: half the distance between kept and pruned scores. */
  constructor(
    weights: ModelWeights,
    private readonly pattern: PatternTable,
    prior: (matrix: DenseMatrix) => Uint8Array,
    margin: number,
    { momentum, churn }: StraightThroughOptions,
  ) {
    this.matrices = matricesOf(weights);
    this.parameters = this.matrices.map((matrix) => {
      const { name, rows, cols } = matrix;
      const parameter = allocateParameter(this.buffers, name, rows * cols, momentum);
      native.write(parameter.values, 0, priorScores(pattern, symbolsOf(pattern, prior(matrix)), margin));
      this.states.set(name, { parameter, masked: this.buffers.alloc(rows * cols * 2) });
      return parameter;
    });
    if (!churn) return;
    const priced = this.matrices.map((matrix) => ({
      parameter: this.state(matrix).parameter,
      prior: prior(matrix),
      codes: () => codesOf(pattern, this.symbols(matrix)),
    }));
    this.penalty = new ChurnPenalty(this.buffers, priced, churn, pattern);
  }

  get bytes(): number {
    return this.buffers.bytes;
  }

  /** The penalty on the step before comes first, as in StraightThrough. */
  prepare(step: number): number {
    if (step > 0) this.penalty?.afterStep(step - 1);
    this.penalty?.bound();
    for (const matrix of this.matrices) {
      maskDense(this.pattern, this.state(matrix).masked, matrix, this.symbols(matrix));
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
    return codesOf(this.pattern, this.symbols(matrix));
  }

  dispose(): void {
    this.buffers.dispose();
  }

  private symbols(matrix: DenseMatrix): Uint8Array {
    const { parameter } = this.state(matrix);
    const scores = new Float32Array(parameter.count);
    native.read(parameter.values, 0, scores);
    const symbols = new Uint8Array(parameter.count / this.pattern.m);
    bestPatterns(this.pattern, scores, symbols);
    return symbols;
  }

  private state(matrix: DenseMatrix): State {
    return this.states.get(matrix.name) as State;
  }
}

/** +margin where kept, −margin where pruned. */
function priorScores({ m, positions }: PatternTable, symbols: Uint8Array, margin: number): Float32Array {
  const scores = new Float32Array(symbols.length * m).fill(-margin);
  symbols.forEach((symbol, group) => {
    for (const position of positions[symbol] as readonly number[]) scores[group * m + position] = margin;
  });
  return scores;
}
