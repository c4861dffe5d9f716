/** One transformer layer, forward and backward, over a batch of whole sequences. The weights of its matrices are whatever the learner supplies. */
import { native, NO_BUFFER, type DType, type Handle } from '../../kernels/index.js';
import type { ModelConfig } from '../engine/model-config.js';
import type { DenseMatrix, LayerWeights } from '../engine/weights.js';
import type { BatchShape, LayerActivations, Scratch } from './activations.js';

/** The weights that a matrix has in this pass: (rows, cols) of `type`. */
export interface EffectiveWeight {
  readonly weight: Handle;
  readonly type: DType;
}

export type WeightsOf = (matrix: DenseMatrix) => EffectiveWeight;

/** Every matrix as it is. */
export const denseWeights: WeightsOf = ({ weight }) => ({ weight, type: 'bf16' });

/** Receives ∂loss/∂W (rows, cols) f32 of a matrix; the buffer is reused afterwards. */
export type GradientSink = (matrix: DenseMatrix, dw: Handle) => void;

export interface LayerContext {
  readonly config: ModelConfig;
  readonly shape: BatchShape;
  /** (T, hd/2) f32 each */
  readonly cos: Handle;
  readonly sin: Handle;
  readonly layer: LayerWeights;
  readonly index: number;
}

/** out (rows, D) ← layer(x (rows, D)), keeping in `kept` what the backward pass needs. */
export function layerForward(
  context: LayerContext,
  out: Handle,
  x: Handle,
  kept: LayerActivations,
  weightsOf: WeightsOf,
): void {
  const { config, shape, layer } = context;
  const { hidden, ffn, normEps } = config;
  const rows = shape.batch * shape.tokens;
  native.rmsnorm(kept.h1, x, layer.inputNorm, rows, hidden, normEps);
  attentionInputs(context, kept, weightsOf);
  attend(context, kept);
  multiply(kept.mid, kept.a, layer.o, rows, weightsOf);
  native.add(kept.mid, x, rows * hidden);
  native.rmsnorm(kept.h2, kept.mid, layer.postNorm, rows, hidden, normEps);
  multiply(kept.gate, kept.h2, layer.gate, rows, weightsOf);
  multiply(kept.up, kept.h2, layer.up, rows, weightsOf);
  native.siluMul(kept.act, kept.gate, kept.up, rows * ffn);
  multiply(out, kept.act, layer.down, rows, weightsOf);
  native.add(out, kept.mid, rows * hidden);
}

/** scratch.d: gradient of the layer's output → of its input x. Every matrix's gradient goes to `sink`. */
export function layerBackward(
  context: LayerContext,
  x: Handle,
  kept: LayerActivations,
  scratch: Scratch,
  weightsOf: WeightsOf,
  sink: GradientSink,
): void {
  const { config, shape, layer } = context;
  const { hidden, ffn, normEps } = config;
  const rows = shape.batch * shape.tokens;
  const { d, dh, dgate, dup, da, dq, dk, dv } = scratch;
  const back = (dx: Handle, dy: Handle, input: Handle, matrix: DenseMatrix, accumulate: boolean): void => {
    const { weight, type } = weightsOf(matrix);
    native.linearBackwardInput(dx, dy, weight, type, rows, matrix.rows, matrix.cols, accumulate);
    native.linearBackwardWeight(scratch.dw, dy, input, rows, matrix.rows, matrix.cols, false);
    sink(matrix, scratch.dw);
  };
  back(dgate, d, kept.act, layer.down, false);
  native.siluMulBackward(dgate, dup, dgate, kept.gate, kept.up, rows * ffn);
  back(dh, dgate, kept.h2, layer.gate, false);
  back(dh, dup, kept.h2, layer.up, true);
  native.rmsnormBackward(d, NO_BUFFER, dh, kept.mid, layer.postNorm, rows, hidden, normEps);
  back(da, d, kept.a, layer.o, false);
  attendBackward(context, kept, scratch);
  back(dh, dq, kept.h1, layer.q, false);
  back(dh, dk, kept.h1, layer.k, true);
  back(dh, dv, kept.h1, layer.v, true);
  native.rmsnormBackward(d, NO_BUFFER, dh, x, layer.inputNorm, rows, hidden, normEps);
}

function multiply(y: Handle, x: Handle, matrix: DenseMatrix, rows: number, weightsOf: WeightsOf): void {
  const { weight, type } = weightsOf(matrix);
  native.linear(y, x, weight, type, rows, matrix.rows, matrix.cols);
  if (matrix.bias !== NO_BUFFER) native.addBias(y, matrix.bias, rows, matrix.rows);
}

function attentionInputs({ config, shape, layer }: LayerContext, kept: LayerActivations, weightsOf: WeightsOf): void {
  const { heads, kvHeads, headDim, normEps, qkNorm } = config;
  const rows = shape.batch * shape.tokens;
  multiply(qkNorm ? kept.qRaw : kept.q, kept.h1, layer.q, rows, weightsOf);
  multiply(qkNorm ? kept.kRaw : kept.k, kept.h1, layer.k, rows, weightsOf);
  multiply(kept.v, kept.h1, layer.v, rows, weightsOf);
  if (qkNorm) {
    native.rmsnorm(kept.q, kept.qRaw, layer.qNorm, rows * heads, headDim, normEps);
    native.rmsnorm(kept.k, kept.kRaw, layer.kNorm, rows * kvHeads, headDim, normEps);
  }
}

function attend({ config, shape, cos, sin, index }: LayerContext, kept: LayerActivations): void {
  const { heads, kvHeads, headDim, windows } = config;
  const { batch, tokens } = shape;
  native.ropeBatch(kept.q, cos, sin, batch, tokens, heads, headDim, false);
  native.ropeBatch(kept.k, cos, sin, batch, tokens, kvHeads, headDim, false);
  native.attentionForward(
    kept.a,
    kept.lse,
    kept.q,
    kept.k,
    kept.v,
    batch,
    tokens,
    heads,
    kvHeads,
    headDim,
    1 / Math.sqrt(headDim),
    windows[index] ?? 0,
  );
}

/** scratch.da → dq, dk, dv of the projections' outputs. */
function attendBackward(context: LayerContext, kept: LayerActivations, scratch: Scratch): void {
  const { config, shape, cos, sin, index } = context;
  const { heads, kvHeads, headDim, windows, qkNorm } = config;
  const { batch, tokens } = shape;
  const { dq, dk, dv, da } = scratch;
  native.attentionBackward(
    dq,
    dk,
    dv,
    da,
    kept.a,
    kept.lse,
    kept.q,
    kept.k,
    kept.v,
    batch,
    tokens,
    heads,
    kvHeads,
    headDim,
    1 / Math.sqrt(headDim),
    windows[index] ?? 0,
  );
  native.ropeBatch(dq, cos, sin, batch, tokens, heads, headDim, true);
  native.ropeBatch(dk, cos, sin, batch, tokens, kvHeads, headDim, true);
  if (qkNorm) qkNormBackward(context, kept, scratch);
}

/** kept.q and kept.k have been read for the last time and serve as the gradients before the norm. */
function qkNormBackward({ config, shape, layer }: LayerContext, kept: LayerActivations, { dq, dk }: Scratch): void {
  const { heads, kvHeads, headDim, normEps } = config;
  const rows = shape.batch * shape.tokens;
  const norms: [Handle, Handle, Handle, Handle, number][] = [
    [kept.q, dq, kept.qRaw, layer.qNorm, heads],
    [kept.k, dk, kept.kRaw, layer.kNorm, kvHeads],
  ];
  for (const [dx, dy, raw, gain, count] of norms) {
    native.zero(dx);
    native.rmsnormBackward(dx, NO_BUFFER, dy, raw, gain, rows * count, headDim, normEps);
    native.zero(dy);
    native.add(dy, dx, rows * count * headDim);
  }
}
