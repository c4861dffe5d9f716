/** All that a training pass over B sequences of T tokens holds: what is kept for the backward pass, scratch, tables, logits of a block of tokens. */
import { NO_BUFFER, type Handle } from '../../kernels/index.js';
import type { ModelConfig } from '../engine/model-config.js';
import {
  allocateLayer,
  allocateScratch,
  Buffers,
  layerBytes,
  type BatchShape,
  type LayerActivations,
  type Scratch,
} from './activations.js';

const F32 = 4;
/** Logits that are in memory at once, for the student and as much again for the teacher. */
const LOGIT_BYTES = 64 << 20;

export interface PassOptions extends BatchShape {
  /** Bytes that kept activations may take; above it layers are recomputed in the backward pass. */
  readonly activationBytes: number;
}

/** Rows are B·T tokens. */
export interface PassBuffers {
  /** layers + 1 of (rows, D): the residual stream */
  readonly inputs: readonly Handle[];
  /** One a layer; the same for all where layers are recomputed. */
  readonly kept: readonly LayerActivations[];
  readonly scratch: Scratch;
  /** (T, hd/2) f32 each */
  readonly cos: Handle;
  readonly sin: Handle;
  readonly hidden: Handle; // (rows, D) after the final norm
  readonly teacherHidden: Handle; // (rows, D)
  readonly logits: Handle; // (logitRows, V)
  readonly teacherLogits: Handle;
  readonly logitRows: number;
}

/** Whether activations of all layers exceed the budget, so that only layer inputs are kept. */
export function recomputes(config: ModelConfig, options: PassOptions): boolean {
  return layerBytes(config, options) * config.layers > options.activationBytes;
}

export function allocatePass(buffers: Buffers, config: ModelConfig, options: PassOptions): PassBuffers {
  const rows = options.batch * options.tokens;
  const stream = (): Handle => buffers.f32(rows * config.hidden);
  const sets = recomputes(config, options) ? 1 : config.layers;
  const allocated = Array.from({ length: sets }, () => allocateLayer(buffers, config, options));
  const table = (): Handle => buffers.f32((options.tokens * config.headDim) / 2);
  const logitRows = Math.max(1, Math.min(rows, Math.floor(LOGIT_BYTES / (config.vocab * F32))));
  return {
    inputs: Array.from({ length: config.layers + 1 }, stream),
    kept: Array.from({ length: config.layers }, (_, i) => allocated[i % sets] as LayerActivations),
    scratch: allocateScratch(buffers, config, options),
    cos: table(),
    sin: table(),
    hidden: stream(),
    teacherHidden: stream(),
    logits: buffers.f32(logitRows * config.vocab),
    teacherLogits: buffers.f32(logitRows * config.vocab),
    logitRows,
  };
}

/** What `allocatePass` will allocate. */
export function passBytes(config: ModelConfig, options: PassOptions): number {
  const counted = new CountedBuffers();
  allocatePass(counted, config, options);
  return counted.bytes;
}

/** Allocates nothing. */
class CountedBuffers extends Buffers {
  override alloc(bytes: number): Handle {
    this.bytes += bytes;
    return NO_BUFFER;
  }
}
