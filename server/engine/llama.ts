/**
 * The LLaMA forward pass (arXiv 2302.13971; Qwen2's biases, Qwen3's q/k norm, Mistral's window), composed from native ops. One chunk of one sequence at a
 * time: hidden states stay in scratch buffers, the head runs only for the rows that are asked for.
 */
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import { KvCache } from './kv-cache.js';
import { linear } from './linear.js';
import type { ModelConfig } from './model-config.js';
import { ropeTables } from './rope.js';
import type { TaskWeights } from './types.js';
import type { DenseMatrix, LayerWeights, ModelWeights } from './weights.js';

/** Tokens of a prefill chunk: the largest `ids` that `run` takes. */
export const CHUNK_TOKENS = 256;
/** Rows of logits that one call of `head` computes at most. */
export const HEAD_ROWS = 64;

const F32 = 4;

/** Sees the input x (tokens, cols) f32 of each linear layer: calibration for Wanda and SparseGPT. */
export type InputHook = (matrix: DenseMatrix, x: Handle, tokens: number) => void;

export class Forward {
  /** (HEAD_ROWS, V) f32: what `head` filled last. */
  readonly logits: Handle;
  private readonly cos: Handle;
  private readonly sin: Handle;
  private readonly x: Handle; // (T, D) the residual stream
  private readonly h: Handle; // (T, D) normed input, later the block's output
  private readonly q: Handle; // (T, H·hd)
  private readonly k: Handle; // (T, KV·hd)
  private readonly v: Handle; // (T, KV·hd)
  private readonly a: Handle; // (T, H·hd) attention output
  private readonly gate: Handle; // (T, F)
  private readonly up: Handle; // (T, F)
  private readonly owned: Handle[] = [];
  private hook: InputHook | undefined;

  constructor(
    private readonly config: ModelConfig,
    private readonly weights: ModelWeights,
    maxContext: number,
  ) {
    const scratch = (cols: number): Handle => this.keep(native.alloc(CHUNK_TOKENS * cols * F32));
    const { hidden, heads, kvHeads, headDim, ffn, vocab } = config;
    const tables = ropeTables(config.rope, headDim, maxContext);
    this.cos = this.filled(tables.cos);
    this.sin = this.filled(tables.sin);
    this.x = scratch(hidden);
    this.h = scratch(hidden);
    this.q = scratch(heads * headDim);
    this.k = scratch(kvHeads * headDim);
    this.v = scratch(kvHeads * headDim);
    this.a = scratch(heads * headDim);
    this.gate = scratch(ffn);
    this.up = scratch(ffn);
    this.logits = this.keep(native.alloc(Math.min(HEAD_ROWS, CHUNK_TOKENS) * vocab * F32));
  }

  /** Calls `hook` with the input of every linear layer until it is set to undefined. */
  observe(hook: InputHook | undefined): void {
    this.hook = hook;
  }

  /** Runs `ids` (at most CHUNK_TOKENS) at the end of `cache`, through `task`'s masks. Leaves their hidden states for `head`. */
  run(ids: Int32Array, cache: KvCache, task: TaskWeights | null): void {
    const tokens = ids.length;
    if (tokens === 0 || tokens > CHUNK_TOKENS || cache.length + tokens > cache.capacity) {
      throw new RangeError(
        `expected 1…${CHUNK_TOKENS} tokens within a cache of ${cache.capacity}, but received ${tokens} at ${cache.length}`,
      );
    }
    native.embed(this.x, this.weights.embedding, ids, this.config.vocab, this.config.hidden);
    this.weights.layers.forEach((layer, index) => {
      this.attend(layer, index, tokens, cache, task);
      this.feed(layer, tokens, task);
    });
    cache.length += tokens;
  }

  /**
   * Logits of `rows` tokens (at most HEAD_ROWS) from `first` of the last chunk: final norm and output layer, which stays dense. Fills
   * `logits` (rows, V).
   */
  head(first: number, rows: number): void {
    const { hidden, vocab, normEps } = this.config;
    const x = native.view(this.x, first * hidden * F32, rows * hidden * F32);
    try {
      native.rmsnorm(this.h, x, this.weights.norm, rows, hidden, normEps);
    } finally {
      native.free(x);
    }
    native.matmul(this.logits, this.h, this.weights.head, rows, vocab, hidden);
  }

  dispose(): void {
    for (const handle of this.owned) native.free(handle);
    this.owned.length = 0;
  }

  private attend(layer: LayerWeights, index: number, tokens: number, cache: KvCache, task: TaskWeights | null): void {
    const { hidden, heads, kvHeads, headDim, normEps, windows } = this.config;
    const [keys, values] = [cache.keys[index] as Handle, cache.values[index] as Handle];
    native.rmsnorm(this.h, this.x, layer.inputNorm, tokens, hidden, normEps);
    this.linear(this.q, this.h, layer.q, tokens, task);
    this.linear(this.k, this.h, layer.k, tokens, task);
    this.linear(this.v, this.h, layer.v, tokens, task);
    if (layer.qNorm !== NO_BUFFER) {
      native.rmsnorm(this.q, this.q, layer.qNorm, tokens * heads, headDim, normEps);
      native.rmsnorm(this.k, this.k, layer.kNorm, tokens * kvHeads, headDim, normEps);
    }
    native.rope(this.q, this.cos, this.sin, cache.length, tokens, heads, headDim);
    native.rope(this.k, this.cos, this.sin, cache.length, tokens, kvHeads, headDim);
    native.kvWrite(keys, this.k, cache.length, tokens, kvHeads, headDim, cache.capacity);
    native.kvWrite(values, this.v, cache.length, tokens, kvHeads, headDim, cache.capacity);
    native.attention(
      this.a,
      this.q,
      keys,
      values,
      cache.length,
      tokens,
      heads,
      kvHeads,
      headDim,
      cache.capacity,
      1 / Math.sqrt(headDim),
      windows[index] ?? 0,
    );
    this.linear(this.h, this.a, layer.o, tokens, task);
    native.add(this.x, this.h, tokens * hidden);
  }

  private feed(layer: LayerWeights, tokens: number, task: TaskWeights | null): void {
    const { hidden, ffn, normEps } = this.config;
    native.rmsnorm(this.h, this.x, layer.postNorm, tokens, hidden, normEps);
    this.linear(this.gate, this.h, layer.gate, tokens, task);
    this.linear(this.up, this.h, layer.up, tokens, task);
    native.siluMul(this.gate, this.gate, this.up, tokens * ffn);
    this.linear(this.h, this.gate, layer.down, tokens, task);
    native.add(this.x, this.h, tokens * hidden);
  }

  private linear(y: Handle, x: Handle, matrix: DenseMatrix, tokens: number, task: TaskWeights | null): void {
    this.hook?.(matrix, x, tokens);
    linear(y, x, matrix, tokens, task);
  }

  private keep(handle: Handle): Handle {
    this.owned.push(handle);
    return handle;
  }

  private filled(values: Float32Array): Handle {
    const handle = this.keep(native.alloc(values.byteLength));
    native.write(handle, 0, values);
    return handle;
  }
}
