/** Low-rank adapters merged in memory: W + s·B·A per matrix, rounded once to bf16; embedding, norms, biases and head stay those of the model that is adapted. */
import { native, type Handle } from '../../kernels/index.js';
import type { DenseMatrix, LayerWeights, ModelWeights } from '../engine/weights.js';
import { matricesOf } from '../engine/weights.js';
import { Buffers } from './activations.js';

const F32 = 4;

/** The adapter of one matrix: a (rank, cols), b (rows, rank), row-major. */
export interface LoraPair {
  readonly rank: number;
  readonly scaling: number;
  readonly a: Float32Array;
  readonly b: Float32Array;
}

/** By tensor name, `model.layers.0.self_attn.q_proj.weight`. A matrix that is missing is not adapted. */
export type LoraAdapter = ReadonlyMap<string, LoraPair>;

/** Weights that somebody owns. */
export interface OwnedWeights {
  readonly weights: ModelWeights;
  /** Native memory beside what they share with the model they come from. */
  readonly bytes: number;
  dispose(): void;
}

/** Scratch to merge matrices with, one at a time: the largest in f32 and its B. */
export class LoraMerge {
  private readonly wide: Handle; // (rows, cols) f32
  private readonly scaled: Handle; // (rows, rank) f32

  /** For any of `matrices` at ranks up to `rank`. */
  constructor(buffers: Buffers, matrices: readonly DenseMatrix[], rank: number) {
    this.wide = buffers.f32(Math.max(...matrices.map(({ rows, cols }) => rows * cols)));
    this.scaled = buffers.f32(rank * Math.max(...matrices.map(({ rows }) => rows)));
  }

  /**
   * out (rows, cols) bf16 ← W + scaling·B·A for a (rank, cols), b (rows, rank) f32. The product is a matmul of the addon: in precision 'bf16' its
   * operands are rounded to bf16 where the CPU multiplies bf16; its sum with W is fp32.
   */
  into(out: Handle, matrix: DenseMatrix, a: Handle, b: Handle, rank: number, scaling: number): void {
    const { rows, cols, weight } = matrix;
    native.toF32(this.scaled, b, 'f32', rows * rank);
    native.scaleBy(this.scaled, scaling, rows * rank);
    native.toF32(this.wide, weight, 'bf16', rows * cols);
    native.linearBackwardInput(this.wide, this.scaled, a, 'f32', rows, rank, cols, true);
    native.toBf16(out, this.wide, 'f32', rows * cols);
  }
}

/** The model with an adapter merged into its matrices: 2 bytes for each weight of those that it adapts, the others are shared. Free it before the model. */
export function mergedWeights(weights: ModelWeights, adapter: LoraAdapter): OwnedWeights {
  const buffers = new Buffers();
  const scratch = new Buffers();
  try {
    const adapted = matricesOf(weights).filter(({ name }) => adapter.has(name));
    const merge = adapted.length > 0 && new LoraMerge(scratch, adapted, largestRank(adapter));
    const merged = (matrix: DenseMatrix): DenseMatrix => {
      const pair = adapter.get(matrix.name);
      if (!pair || !merge) return matrix;
      const weight = buffers.alloc(matrix.rows * matrix.cols * 2);
      mergePair(merge, weight, matrix, pair);
      return { ...matrix, weight };
    };
    const layers = weights.layers.map((layer) => mergedLayer(layer, merged));
    const { bytes } = buffers;
    const dispose = (): void => buffers.dispose();
    return { weights: { ...weights, layers, dispose }, bytes, dispose };
  } catch (error) {
    buffers.dispose();
    throw error;
  } finally {
    scratch.dispose();
  }
}

function largestRank(adapter: LoraAdapter): number {
  return Math.max(...[...adapter.values()].map(({ rank }) => rank));
}

function mergePair(merge: LoraMerge, out: Handle, matrix: DenseMatrix, { a, b, rank, scaling }: LoraPair): void {
  const low = new Buffers();
  try {
    const [nativeA, nativeB] = [low.alloc(a.length * F32), low.alloc(b.length * F32)];
    native.write(nativeA, 0, a);
    native.write(nativeB, 0, b);
    merge.into(out, matrix, nativeA, nativeB, rank, scaling);
  } finally {
    low.dispose();
  }
}

function mergedLayer(layer: LayerWeights, merged: (matrix: DenseMatrix) => DenseMatrix): LayerWeights {
  return {
    ...layer,
    q: merged(layer.q),
    k: merged(layer.k),
    v: merged(layer.v),
    o: merged(layer.o),
    gate: merged(layer.gate),
    up: merged(layer.up),
    down: merged(layer.down),
  };
}
