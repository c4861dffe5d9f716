/**
 * Forward and backward of the whole model over B sequences of T tokens: hidden states of every layer are kept, or only each layer's input, and
 * recomputed, when the budget says so. Gradients reach the matrices only; embedding, norms and head are frozen.
 */
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import type { Model } from '../engine/model.js';
import { ropeTables } from '../engine/rope.js';
import type { ModelWeights } from '../engine/weights.js';
import { Buffers, type LayerActivations } from './activations.js';
import {
  denseWeights,
  layerBackward,
  layerForward,
  type GradientSink,
  type LayerContext,
  type WeightsOf,
} from './layer-pass.js';
import { allocatePass, recomputes, type PassBuffers, type PassOptions } from './pass-buffers.js';

const F32 = 4;

/** Mean over the batch's tokens, nats. `loss` is what the gradient is of. */
export interface Losses {
  readonly loss: number;
  /** −log p(next token) */
  readonly lm: number;
  /** KL(teacher ‖ student); 0 without a teacher */
  readonly kl: number;
}

/** The loss of `rows` tokens of a batch: klWeight 0: LM only; 1: KL to what `teach` saw last. */
export interface LossShare {
  readonly rows: number;
  readonly klWeight: number;
}

export class TrainingPass {
  /** True: only layer inputs are kept. */
  readonly recomputes: boolean;
  private readonly buffers = new Buffers();
  private readonly at: PassBuffers;
  private readonly rows: number;
  /** (V, D) bf16 of the teacher seen last. */
  private teacherHead: Handle = NO_BUFFER;

  constructor(
    private readonly model: Model,
    private readonly options: PassOptions,
  ) {
    const { config } = model;
    this.rows = options.batch * options.tokens;
    this.recomputes = recomputes(config, options);
    this.at = allocatePass(this.buffers, config, options);
    const tables = ropeTables(config.rope, config.headDim, options.tokens);
    native.write(this.at.cos, 0, tables.cos);
    native.write(this.at.sin, 0, tables.sin);
  }

  /** Native memory that this pass holds. */
  get bytes(): number {
    return this.buffers.bytes;
  }

  /**
   * Runs the teacher, any model of this shape with its own embedding, norms and head, over `ids` and keeps its last hidden states for `step`; its weights must
   * live until then.
   */
  teach(ids: Int32Array, teacher: ModelWeights): void {
    this.forward(ids, teacher, denseWeights);
    this.finalNorm(this.at.teacherHidden, teacher);
    this.teacherHead = teacher.head;
  }

  /** Loss of `ids` (rows) → `targets` (rows), gradients to `sink`. `shares` cover all rows in order. */
  step(
    ids: Int32Array,
    targets: Int32Array,
    shares: readonly LossShare[],
    weightsOf: WeightsOf,
    sink: GradientSink,
  ): Losses {
    const { config, weights } = this.model;
    this.forward(ids, weights, weightsOf);
    this.finalNorm(this.at.hidden, weights);
    const losses = this.headBackward(targets, shares);
    const last = this.at.inputs[config.layers] as Handle;
    native.zero(this.at.scratch.d);
    native.rmsnormBackward(
      this.at.scratch.d,
      NO_BUFFER,
      this.at.scratch.dh,
      last,
      weights.norm,
      this.rows,
      config.hidden,
      config.normEps,
    );
    for (let index = config.layers - 1; index >= 0; index--) this.backward(index, weightsOf, sink);
    return losses;
  }

  dispose(): void {
    this.buffers.dispose();
  }

  private forward(ids: Int32Array, weights: ModelWeights, weightsOf: WeightsOf): void {
    const { config } = this.model;
    native.embed(this.at.inputs[0] as Handle, weights.embedding, ids, config.vocab, config.hidden);
    for (let index = 0; index < config.layers; index++) {
      const [x, out] = [this.at.inputs[index] as Handle, this.at.inputs[index + 1] as Handle];
      layerForward(this.context(index, weights), out, x, this.at.kept[index] as LayerActivations, weightsOf);
    }
  }

  private backward(index: number, weightsOf: WeightsOf, sink: GradientSink): void {
    const context = this.context(index, this.model.weights);
    const [x, kept] = [this.at.inputs[index] as Handle, this.at.kept[index] as LayerActivations];
    // the layer's output is not needed any more: recomputing overwrites it with the same values
    if (this.recomputes) layerForward(context, this.at.inputs[index + 1] as Handle, x, kept, weightsOf);
    layerBackward(context, x, kept, this.at.scratch, weightsOf, sink);
  }

  private finalNorm(out: Handle, weights: ModelWeights): void {
    const { config } = this.model;
    const last = this.at.inputs[config.layers] as Handle;
    native.rmsnorm(out, last, weights.norm, this.rows, config.hidden, config.normEps);
  }

  /** scratch.dh ← gradient of the final norm's output, block of logits by block. */
  private headBackward(targets: Int32Array, shares: readonly LossShare[]): Losses {
    let [lm, kl, loss, first] = [0, 0, 0, 0];
    for (const { rows, klWeight } of shares) {
      const end = first + rows;
      while (first < end) {
        const count = Math.min(this.at.logitRows, end - first);
        const sums = this.blockBackward(targets.subarray(first, first + count), first, klWeight);
        lm += sums.lm;
        kl += sums.kl;
        loss += klWeight * sums.kl + (1 - klWeight) * sums.lm;
        first += count;
      }
    }
    return { lm: lm / this.rows, kl: kl / this.rows, loss: loss / this.rows };
  }

  /** Sums over the rows from `first` on, as many as targets. */
  private blockBackward(targets: Int32Array, first: number, klWeight: number): { lm: number; kl: number } {
    const { config, weights } = this.model;
    const { hidden, vocab } = config;
    const count = targets.length;
    const block = (base: Handle): Handle => native.view(base, first * hidden * F32, count * hidden * F32);
    const views = [block(this.at.hidden), block(this.at.teacherHidden), block(this.at.scratch.dh)] as const;
    const [h, teacher, dh] = views;
    const asks = klWeight > 0;
    native.linear(this.at.logits, h, weights.head, 'bf16', count, vocab, hidden);
    if (asks) native.linear(this.at.teacherLogits, teacher, this.teacherHead, 'bf16', count, vocab, hidden);
    const teacherLogits = asks ? this.at.teacherLogits : NO_BUFFER;
    const sums = native.lossBackward(this.at.logits, teacherLogits, targets, count, vocab, klWeight, this.rows);
    native.linearBackwardInput(dh, this.at.logits, weights.head, 'bf16', count, vocab, hidden, false);
    for (const view of views) native.free(view);
    return sums;
  }

  private context(index: number, weights: ModelWeights): LayerContext {
    const { config } = this.model;
    const layer = weights.layers[index];
    if (!layer) throw new RangeError(`expected a layer below ${config.layers} but received ${index}`);
    return { config, shape: this.options, cos: this.at.cos, sin: this.at.sin, layer, index };
  }
}
