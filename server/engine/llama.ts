/**
 * The LLaMA forward pass (arXiv 2302.13971; Qwen2's biases, Qwen3's q/k norm, Mistral's window), composed from native ops. One chunk of one sequence at a
 * time, or one token of each of several: hidden states stay in scratch buffers, the head runs only for the rows that are asked for.
 */
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import type { DecodeRow } from './decode-row.js';
import { drawTokens, GREEDY, packDraws, type Draw } from './draws.js';
import type { KvCache } from './kv-cache.js';
import { linear, linearRows, type Output } from './linear.js';
import type { ModelConfig } from './model-config.js';
import { panelTokensByRule, type PanelTokens } from './panel-tokens.js';
import { RecordedSteps } from './recorded-steps.js';
import { ropeTables } from './rope.js';
import type { TaskWeights } from './types.js';
import type { DenseMatrix, LayerWeights, ModelWeights } from './weights.js';

/** Tokens of a prefill chunk that `run` takes on any backend. */
export const CHUNK_TOKENS = 256;
/** A GPU's matrix libraries are at their best from here on. */
const DEVICE_CHUNK_TOKENS = 2048;
/** Rows of logits that one call of `head` computes at most. */
export const HEAD_ROWS = 64;

const F32 = 4;
const NOTHING_DRAWN = { settings: new Float64Array(0), tokens: new Int32Array(0) };

/** Sees the input x (tokens, cols) f32 of each linear layer: calibration for Wanda and SparseGPT. */
export type InputHook = (matrix: DenseMatrix, x: Handle, tokens: number) => void;

type Product = (x: Handle, ...outputs: Output[]) => void;

export class Forward {
  /** (HEAD_ROWS, V) f32: what `head` filled last. */
  readonly logits: Handle;
  /** The largest `ids` that `run` takes here. */
  readonly chunkTokens: number;
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
  private readonly recorded: RecordedSteps;

  constructor(
    private readonly config: ModelConfig,
    private readonly weights: ModelWeights,
    maxContext: number,
    private readonly panelTokens: PanelTokens = panelTokensByRule,
  ) {
    const longest = native.info().device === null ? CHUNK_TOKENS : DEVICE_CHUNK_TOKENS;
    this.chunkTokens = Math.max(CHUNK_TOKENS, Math.min(longest, maxContext));
    const scratch = (cols: number): Handle => this.keep(native.alloc(this.chunkTokens * cols * F32));
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
    this.recorded = new RecordedSteps(vocab);
    this.logits = this.keep(native.alloc(Math.min(HEAD_ROWS, CHUNK_TOKENS) * vocab * F32));
  }

  /** Memory that it holds where ops run. */
  get bytes(): number {
    return this.owned.reduce((sum, handle) => sum + native.byteLength(handle), 0);
  }

  /** Calls `hook` with the input of every linear layer until it is set to undefined. */
  observe(hook: InputHook | undefined): void {
    this.hook = hook;
  }

  /** Runs `ids` (at most `chunkTokens`) at the end of `cache`, through `task`'s masks. Leaves their hidden states for `head`. */
  run(ids: Int32Array, cache: KvCache, task: TaskWeights | null): void {
    const tokens = ids.length;
    if (tokens === 0 || tokens > this.chunkTokens || cache.length + tokens > cache.capacity) {
      throw new RangeError(
        `expected 1…${this.chunkTokens} tokens within a cache of ${cache.capacity}, but received ${tokens} at ${cache.length}`,
      );
    }
    native.embed(this.x, this.weights.embedding, ids, this.config.vocab, this.config.hidden);
    this.weights.layers.forEach((layer, index) => {
      const product: Product = (x, ...outputs) => {
        for (const { matrix } of outputs) this.hook?.(matrix, x, tokens);
        linear(x, outputs, tokens, task, this.panelTokens);
      };
      this.project(layer, tokens, product);
      this.attend(index, tokens, cache);
      this.mix(layer, tokens, product);
    });
    cache.length += tokens;
  }

  /**
   * One token of each of several sequences, each at the end of its own cache and through its own task (at most HEAD_ROWS), and what comes after
   * it: draws[r] (greedy unless given) from row r of `logits`, which stay. The same bits as `run` of each by itself; neighbours that share a task's
   * weights are multiplied together.
   */
  decode(rows: readonly DecodeRow[], draws: readonly Draw[] = rows.map(() => GREEDY)): Int32Array {
    const full = rows.find(({ cache }) => cache.length >= cache.capacity);
    if (rows.some(({ cache }) => cache.type !== rows[0]?.cache.type)) {
      throw new RangeError('expected caches of one type in a batch, but received both bf16 and f32');
    }
    if (rows.length === 0 || rows.length > HEAD_ROWS || full) {
      throw new RangeError(
        `expected 1…${HEAD_ROWS} sequences with room in their caches, but received ${rows.length}${full ? ', one of them full' : ''}`,
      );
    }
    const ids = Int32Array.from(rows, ({ id }) => id);
    const positions = Int32Array.from(rows, ({ cache }) => cache.length);
    const packed = packDraws(draws);
    const tokens = new Int32Array(rows.length);
    // What is recorded draws without deltas.
    const adjusted = packed.ids.length > 0;
    const drawn = adjusted ? NOTHING_DRAWN : { settings: packed.settings, tokens };
    this.recorded.run(rows, { ids, positions, ...drawn }, () => {
      this.decodeStep(rows, ids, positions);
      this.head(0, rows.length);
      if (!adjusted) drawTokens(this.logits, this.config.vocab, packed, tokens);
    });
    if (adjusted) drawTokens(this.logits, this.config.vocab, packed, tokens);
    for (const { cache } of rows) cache.length++;
    return tokens;
  }

  /** draws[r] from row r of `logits`, which stay. */
  sample(draws: readonly Draw[]): Int32Array {
    const tokens = new Int32Array(draws.length);
    drawTokens(this.logits, this.config.vocab, packDraws(draws), tokens);
    return tokens;
  }

  private decodeStep(rows: readonly DecodeRow[], ids: Int32Array, positions: Int32Array): void {
    const tasks = rows.map(({ task }) => task);
    const capacities = Int32Array.from(rows, ({ cache }) => cache.capacity);
    native.embed(this.x, this.weights.embedding, ids, this.config.vocab, this.config.hidden);
    this.weights.layers.forEach((layer, index) => {
      const product: Product = (x, ...outputs) => linearRows(x, outputs, tasks);
      this.project(layer, rows.length, product);
      const { heads, kvHeads, headDim, windows } = this.config;
      native.attendRows(
        this.a,
        this.q,
        this.k,
        this.v,
        this.cos,
        this.sin,
        Float64Array.from(rows, ({ cache }) => cache.keys[index] as Handle),
        Float64Array.from(rows, ({ cache }) => cache.values[index] as Handle),
        positions,
        capacities,
        heads,
        kvHeads,
        headDim,
        1 / Math.sqrt(headDim),
        windows[index] ?? 0,
        rows[0]?.cache.type ?? 'f32',
      );
      this.mix(layer, rows.length, product);
    });
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
    this.recorded.dispose();
    for (const handle of this.owned) native.free(handle);
    this.owned.length = 0;
  }

  /** q, k, v ← the normed residual stream. */
  private project(layer: LayerWeights, tokens: number, product: Product): void {
    const { hidden, heads, kvHeads, headDim, normEps } = this.config;
    native.rmsnorm(this.h, this.x, layer.inputNorm, tokens, hidden, normEps);
    product(this.h, { y: this.q, matrix: layer.q }, { y: this.k, matrix: layer.k }, { y: this.v, matrix: layer.v });
    if (layer.qNorm === NO_BUFFER) return;
    native.rmsnorm(this.q, this.q, layer.qNorm, tokens * heads, headDim, normEps);
    native.rmsnorm(this.k, this.k, layer.kNorm, tokens * kvHeads, headDim, normEps);
  }

  /** a ← attention of a chunk at the end of `cache`. */
  private attend(index: number, tokens: number, cache: KvCache): void {
    const { heads, kvHeads, headDim, windows } = this.config;
    const [keys, values] = [cache.keys[index] as Handle, cache.values[index] as Handle];
    native.rope(this.q, this.cos, this.sin, cache.length, tokens, heads, headDim);
    native.rope(this.k, this.cos, this.sin, cache.length, tokens, kvHeads, headDim);
    native.kvWrite(keys, this.k, cache.length, tokens, kvHeads, headDim, cache.capacity, cache.type);
    native.kvWrite(values, this.v, cache.length, tokens, kvHeads, headDim, cache.capacity, cache.type);
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
      cache.type,
    );
  }

  /** The residual stream += attention's output, then the feed-forward block's. */
  private mix(layer: LayerWeights, tokens: number, product: Product): void {
    const { hidden, ffn, normEps } = this.config;
    product(this.a, { y: this.h, matrix: layer.o });
    native.add(this.x, this.h, tokens * hidden);
    native.rmsnorm(this.h, this.x, layer.postNorm, tokens, hidden, normEps);
    product(this.h, { y: this.gate, matrix: layer.gate }, { y: this.up, matrix: layer.up });
    native.siluMul(this.gate, this.gate, this.up, tokens * ffn);
    product(this.gate, { y: this.h, matrix: layer.down });
    native.add(this.x, this.h, tokens * hidden);
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
