/** Buffers of a training pass: what each layer keeps for its backward pass, and what all layers share. Rows are B·T tokens. */
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import type { ModelConfig } from '../engine/model-config.js';

const F32 = 4;

/** B sequences of T tokens. */
export interface BatchShape {
  readonly batch: number;
  readonly tokens: number;
}

/** What the backward pass of one layer reads, all f32. */
export interface LayerActivations {
  readonly h1: Handle; // (rows, D) normed input of attention
  readonly qRaw: Handle; // (rows, H·hd) before q/k norm; none where the model has no such norm
  readonly kRaw: Handle; // (rows, KV·hd)
  readonly q: Handle; // (rows, H·hd) rotated
  readonly k: Handle; // (rows, KV·hd) rotated
  readonly v: Handle; // (rows, KV·hd)
  readonly lse: Handle; // (B, H, T)
  readonly a: Handle; // (rows, H·hd) attention output
  readonly mid: Handle; // (rows, D) residual stream after attention
  readonly h2: Handle; // (rows, D) normed input of the MLP
  readonly gate: Handle; // (rows, F)
  readonly up: Handle; // (rows, F)
  readonly act: Handle; // (rows, F)
}

/** Gradients and scratch that live for one layer at a time. */
export interface Scratch {
  readonly d: Handle; // (rows, D) gradient of the residual stream
  readonly dh: Handle; // (rows, D)
  readonly dq: Handle; // (rows, H·hd)
  readonly dk: Handle; // (rows, KV·hd)
  readonly dv: Handle; // (rows, KV·hd)
  readonly da: Handle; // (rows, H·hd)
  readonly dgate: Handle; // (rows, F)
  readonly dup: Handle; // (rows, F)
  readonly dw: Handle; // (N, K) of the largest matrix
}

/** Frees everything it allocated, in one call. */
export class Buffers {
  private readonly owned: Handle[] = [];
  bytes = 0;

  /** (elements) f32, zeroed */
  f32(elements: number): Handle {
    return this.alloc(elements * F32);
  }

  alloc(bytes: number): Handle {
    const handle = native.alloc(bytes);
    this.owned.push(handle);
    this.bytes += bytes;
    return handle;
  }

  dispose(): void {
    for (const handle of this.owned) native.free(handle);
    this.owned.length = 0;
    this.bytes = 0;
  }
}

export function allocateLayer(buffers: Buffers, config: ModelConfig, shape: BatchShape): LayerActivations {
  const { hidden, heads, kvHeads, headDim, ffn, qkNorm } = config;
  const rows = shape.batch * shape.tokens;
  const [q, kv] = [rows * heads * headDim, rows * kvHeads * headDim];
  return {
    h1: buffers.f32(rows * hidden),
    qRaw: qkNorm ? buffers.f32(q) : NO_BUFFER,
    kRaw: qkNorm ? buffers.f32(kv) : NO_BUFFER,
    q: buffers.f32(q),
    k: buffers.f32(kv),
    v: buffers.f32(kv),
    lse: buffers.f32(rows * heads),
    a: buffers.f32(q),
    mid: buffers.f32(rows * hidden),
    h2: buffers.f32(rows * hidden),
    gate: buffers.f32(rows * ffn),
    up: buffers.f32(rows * ffn),
    act: buffers.f32(rows * ffn),
  };
}

export function allocateScratch(buffers: Buffers, config: ModelConfig, shape: BatchShape): Scratch {
  const { hidden, heads, kvHeads, headDim, ffn } = config;
  const rows = shape.batch * shape.tokens;
  return {
    d: buffers.f32(rows * hidden),
    dh: buffers.f32(rows * hidden),
    dq: buffers.f32(rows * heads * headDim),
    dk: buffers.f32(rows * kvHeads * headDim),
    dv: buffers.f32(rows * kvHeads * headDim),
    da: buffers.f32(rows * heads * headDim),
    dgate: buffers.f32(rows * ffn),
    dup: buffers.f32(rows * ffn),
    dw: buffers.f32(hidden * Math.max(ffn, heads * headDim)),
  };
}

/** Bytes that one layer's activations take. */
export function layerBytes(config: ModelConfig, shape: BatchShape): number {
  const { hidden, heads, kvHeads, headDim, ffn, qkNorm } = config;
  const perRow =
    3 * hidden + (2 + Number(qkNorm)) * heads * headDim + (2 + Number(qkNorm)) * kvHeads * headDim + heads + 3 * ffn;
  return shape.batch * shape.tokens * perRow * F32;
}
