/**
 * Forward and backward of the whole model over B sequences of T tokens: hidden states of every layer are kept, or only each layer's input, and
 * recomputed, when the budget says so. Gradients reach the matrices only; embedding, norms and head are frozen.
 */
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import type { Model } from '../engine/model.js';
import { ropeTables } from '../engine/rope.js';
import type { ModelWeights } from '../engine/weights.js';
import {
  allocateLayer,
  allocateScratch,
  Buffers,
  layerBytes,
  type BatchShape,
  type LayerActivations,
  type Scratch,
} from './activations.js';
import {
  denseWeights,
  layerBackward,
  layerForward,
  type GradientSink,
  type LayerContext,
  type WeightsOf,
} from './layer-pass.js';

const F32 = 4;
/** Logits that are in memory at once, for the student and as much again for the teacher. */
const LOGIT_BYTES = 64 << 20;

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

export interface PassOptions extends BatchShape {
  /** Bytes that kept activations may take; above it layers are recomputed in the backward pass. */
  readonly activationBytes: number;
}

export class TrainingPass {
  /** True: only layer inputs are kept. */
  readonly recomputes: boolean;
  private readonly buffers = new Buffers();
  private readonly inputs: readonly Handle[]; // layers + 1 of (rows, D): the residual stream
  private readonly kept: readonly LayerActivations[];
  private readonly scratch: Scratch;
  private readonly cos: Handle;
  private readonly sin: Handle;
  private readonly hidden: Handle; // (rows, D) after the final norm
  private readonly teacherHidden: Handle; // (rows, D)
  private readonly logits: Handle; // (logitRows, V)
  private readonly teacherLogits: Handle;
  private readonly logitRows: number;
  private readonly rows: number;
  /** (V, D) bf16 of the teacher seen last. */
  private teacherHead: Handle = NO_BUFFER;

  constructor(
    private readonly model: Model,
    private readonly options: PassOptions,
  ) {
    const { config } = model;
    this.rows = options.batch * options.tokens;
    this.recomputes = layerBytes(config, options) * config.layers > options.activationBytes;
    const stream = (): Handle => this.buffers.f32(this.rows * config.hidden);
    this.inputs = Array.from({ length: config.layers + 1 }, stream);
    const sets = this.recomputes ? 1 : config.layers;
    const allocated = Array.from({ length: sets }, () => allocateLayer(this.buffers, config, options));
    this.kept = Array.from({ length: config.layers }, (_, i) => allocated[i % sets] as LayerActivations);
    this.scratch = allocateScratch(this.buffers, config, options);
    const tables = ropeTables(config.rope, config.headDim, options.tokens);
    this.cos = this.filled(tables.cos);
    this.sin = this.filled(tables.sin);
    this.hidden = stream();
    this.teacherHidden = stream();
    this.logitRows = Math.max(1, Math.min(this.rows, Math.floor(LOGIT_BYTES / (config.vocab * F32))));
    this.logits = this.buffers.f32(this.logitRows * config.vocab);
    this.teacherLogits = this.buffers.f32(this.logitRows * config.vocab);
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
    this.finalNorm(this.teacherHidden, teacher);
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
    this.finalNorm(this.hidden, weights);
    const losses = this.headBackward(targets, shares);
    const last = this.inputs[config.layers] as Handle;
    native.zero(this.scratch.d);
    native.rmsnormBackward(
      this.scratch.d,
      NO_BUFFER,
      this.scratch.dh,
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
    native.embed(this.inputs[0] as Handle, weights.embedding, ids, config.vocab, config.hidden);
    for (let index = 0; index < config.layers; index++) {
      const [x, out] = [this.inputs[index] as Handle, this.inputs[index + 1] as Handle];
      layerForward(this.context(index, weights), out, x, this.kept[index] as LayerActivations, weightsOf);
    }
  }

  private backward(index: number, weightsOf: WeightsOf, sink: GradientSink): void {
    const context = this.context(index, this.model.weights);
    const [x, kept] = [this.inputs[index] as Handle, this.kept[index] as LayerActivations];
    // the layer's output is not needed any more: recomputing overwrites it with the same values
    if (this.recomputes) layerForward(context, this.inputs[index + 1] as Handle, x, kept, weightsOf);
    layerBackward(context, x, kept, this.scratch, weightsOf, sink);
  }

  private finalNorm(out: Handle, weights: ModelWeights): void {
    const { config } = this.model;
    const last = this.inputs[config.layers] as Handle;
    native.rmsnorm(out, last, weights.norm, this.rows, config.hidden, config.normEps);
  }

  /** scratch.dh ← gradient of the final norm's output, block of logits by block. */
  private headBackward(targets: Int32Array, shares: readonly LossShare[]): Losses {
    let [lm, kl, loss, first] = [0, 0, 0, 0];
    for (const { rows, klWeight } of shares) {
      const end = first + rows;
      while (first < end) {
        const count = Math.min(this.logitRows, end - first);
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
    const views = [block(this.hidden), block(this.teacherHidden), block(this.scratch.dh)] as const;
    const [h, teacher, dh] = views;
    const asks = klWeight > 0;
    native.linear(this.logits, h, weights.head, 'bf16', count, vocab, hidden);
    if (asks) native.linear(this.teacherLogits, teacher, this.teacherHead, 'bf16', count, vocab, hidden);
    const teacherLogits = asks ? this.teacherLogits : NO_BUFFER;
    const sums = native.lossBackward(this.logits, teacherLogits, targets, count, vocab, klWeight, this.rows);
    native.linearBackwardInput(dh, this.logits, weights.head, 'bf16', count, vocab, hidden, false);
    for (const view of views) native.free(view);
    return sums;
  }

  private context(index: number, weights: ModelWeights): LayerContext {
    const { config } = this.model;
    const layer = weights.layers[index];
    if (!layer) throw new RangeError(`expected a layer below ${config.layers} but received ${index}`);
    return { config, shape: this.options, cos: this.cos, sin: this.sin, layer, index };
  }

  private filled(values: Float32Array): Handle {
    const handle = this.buffers.f32(values.length);
    native.write(handle, 0, values);
    return handle;
  }
}
