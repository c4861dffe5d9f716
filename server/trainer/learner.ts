/** What is learned. A learner owns parameters for every matrix, supplies the weights that a pass uses, and takes the gradients. */
import type { Handle } from '../../kernels/index.js';
import type { DenseMatrix } from '../engine/weights.js';
import type { EffectiveWeight } from './layer-pass.js';
import type { Parameter } from './optimizer.js';

export interface Learner {
  /** In the order they are clipped, updated and saved. */
  readonly parameters: readonly Parameter[];
  /** Native memory it holds. */
  readonly bytes: number;
  /** Fills the effective weights for step `step` of `steps` (both from 0). Returns what the loss is lessened by (Eq. 8), 0 for most. */
  prepare(step: number, steps: number): number;
  weight(matrix: DenseMatrix): EffectiveWeight;
  /** Turns ∂loss/∂W of the last pass into gradients of the parameters. */
  accept(matrix: DenseMatrix, dw: Handle): void;
  /** Current hard mask of a matrix in canonical codes: nibbles, (rows · cols / 8) bytes, for 2:4; a symbol a byte else. */
  nibbles(matrix: DenseMatrix): Uint8Array;
  /** Mean over groups of the likeliest pattern's probability: how sure it is. A learner whose masks are hard has none. */
  maxProbability?(): number;
  dispose(): void;
}

/** A learner of weights under no mask. */
export type WeightLearner = Omit<Learner, 'nibbles'>;
