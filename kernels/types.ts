/**
 * Every export of the native addon, typed by hand: the only door between TypeScript and C++.
 *
 * Shapes: B batch, T tokens, D hidden, F ffn, H heads, KV kv-heads, V vocabulary, hd head dimension, N output rows, K input columns.
 * A native buffer is named by a `Handle`: a number valid in every thread of the process, so that a task compacted by
 * the loader thread is passed to the engine thread by posting a number. Buffers are reference counted; a view holds its base.
 * All activations are fp32 in memory, row-major, tokens first. Weights are bf16, row-major (N, K), as Hugging Face stores them.
 * Every op checks handles, types and extents and throws a `TypeError` or `RangeError` that names the op and the argument; it never crashes.
 */

import type { NativeBackends } from './backend-types.js';
import type { NativeCodec } from './codec-types.js';
import type { DType, Handle, KvType } from './handle.js';
import type { NativeTraining } from './training-types.js';

/** Products of one x (T, K): y (T, N) ← x · wᵀ of each, the third unless its y is 0. */
export type FusedProducts = [
  x: Handle,
  tokens: number,
  k: number,
  y0: Handle,
  w0: Handle,
  n0: number,
  y1: Handle,
  w1: Handle,
  n1: number,
  y2: Handle,
  w2: Handle,
  n2: number,
];

export interface NativeAddon extends NativeBackends, NativeCodec, NativeTraining {
  // ---- buffers ----
  /** Zeroed, 64-byte aligned, where this thread's ops run. Throws RangeError when memory can't be had. */
  alloc(bytes: number): Handle;
  /** Maps part of a file read-only. `offset` need not be page aligned. Throws with the system's reason. */
  mapFile(path: string, offset: number, bytes: number): Handle;
  /** A window of another buffer; keeps it alive. */
  view(base: Handle, byteOffset: number, bytes: number): Handle;
  free(buffer: Handle): void;
  byteLength(buffer: Handle): number;
  /** Copies out of a buffer into a typed array. */
  read(buffer: Handle, byteOffset: number, into: ArrayBufferView): void;
  /** Copies into a buffer; throws on a read-only mapping. */
  write(buffer: Handle, byteOffset: number, from: ArrayBufferView): void;
  zero(buffer: Handle): void;
  /**
   * Reads every byte once, on all threads: brings mapped weights into memory, and is the speed that a product over them can reach at most.
   * Gives the xor of the buffer's whole 32-bit words (of pairs of them: a last odd one is left out).
   */
  readThrough(buffer: Handle): number;
  /** Live buffers and the bytes they own (views and mappings own none), for leak tests and /metrics. */
  usage(): { buffers: number; bytes: number; mappedBytes: number };

  // ---- conversion ----
  /** out (n) bf16 ← in (n) of `type`, rounded to nearest even. */
  toBf16(out: Handle, input: Handle, type: DType, n: number): void;
  /** out (n) f32 ← in (n) of `type`. */
  toF32(out: Handle, input: Handle, type: DType, n: number): void;

  // ---- the forward pass ----
  /** out (T, D) f32 ← rows of table (V, D) bf16. Throws on an id outside [0, V). */
  embed(out: Handle, table: Handle, ids: Int32Array, vocab: number, dim: number): void;
  /** out (rows, D) ← x / sqrt(mean(x²) + eps) · gain (D) f32. `out` may be `x`. Also Qwen3's q/k norm with rows = T·H, D = hd. */
  rmsnorm(out: Handle, x: Handle, gain: Handle, rows: number, dim: number, eps: number): void;
  /**
   * Rotates x (T, heads, hd) in place, Hugging Face's half-split order. cos, sin: (positions, hd/2) f32, already scaled;
   * token t is at position start + t.
   */
  rope(x: Handle, cos: Handle, sin: Handle, start: number, tokens: number, heads: number, headDim: number): void;
  /** cache (KV, capacity, hd) of `type` ← x (T, KV, hd) at positions start…, rounded to nearest even. */
  kvWrite(
    cache: Handle,
    x: Handle,
    start: number,
    tokens: number,
    kvHeads: number,
    headDim: number,
    capacity: number,
    type: KvType,
  ): void;
  /**
   * out (T, H, hd) ← causal softmax(q kᵀ · scale) v, grouped queries, over positions [max(0, p − window + 1), p] for the
   * token at p = start + t; window 0: no limit (Mistral's sliding window otherwise). kCache, vCache: (KV, capacity, hd) of `type`.
   */
  attention(
    out: Handle,
    q: Handle,
    kCache: Handle,
    vCache: Handle,
    start: number,
    tokens: number,
    heads: number,
    kvHeads: number,
    headDim: number,
    capacity: number,
    scale: number,
    window: number,
    type: KvType,
  ): void;
  /**
   * Decoding a batch, one token of each of R sequences (R = positions.length): q (R, H, hd) and k (R, KV, hd) are rotated in place at
   * positions[r], k and v (R, KV, hd) are written there into keys[r] and values[r] (KV, capacities[r], hd) of `type`, and out (R, H, hd) ← attention
   * over them. The same bits as rope, kvWrite and attention of each row by itself.
   */
  attendRows(
    out: Handle,
    q: Handle,
    k: Handle,
    v: Handle,
    cos: Handle,
    sin: Handle,
    keys: Float64Array,
    values: Float64Array,
    positions: Int32Array,
    capacities: Int32Array,
    heads: number,
    kvHeads: number,
    headDim: number,
    scale: number,
    window: number,
    type: KvType,
  ): void;
  /** out (n) ← silu(gate) · up. `out` may be `gate`. */
  siluMul(out: Handle, gate: Handle, up: Handle, n: number): void;
  /** x (n) += y. */
  add(x: Handle, y: Handle, n: number): void;
  /** x (rows, N) += bias (N) f32 (Qwen2's q/k/v bias). */
  addBias(x: Handle, bias: Handle, rows: number, n: number): void;
  /** y (T, N) ← x (T, K) · wᵀ, w (N, K) bf16. The result of a row does not depend on the number of threads, nor on T on either side of 65 (from there on, sums have another order). */
  matmul(y: Handle, x: Handle, w: Handle, tokens: number, n: number, k: number): void;
  /** y (T, N) ← x (T, K) · wᵀ, w in the packed 2:4 form that compress24 writes. Same independence. */
  matmul24(y: Handle, x: Handle, packed: Handle, tokens: number, n: number, k: number): void;
  /**
   * matmul24 of one compacted parent for tokens of several tasks: row t goes through patches[t], made by buildPatch24 (0: the parent
   * itself). Equal to matmul24 of the child, compacted, to fp32 rounding. `patches` has `tokens` handles. Same independence.
   */
  matmul24Patched(
    y: Handle,
    x: Handle,
    packed: Handle,
    patches: Float64Array,
    tokens: number,
    n: number,
    k: number,
  ): void;
  /**
   * y (T, N) ← x (T, K) · wᵀ, w (N, K) bf16 read once, row t through masks[t]: codes24's output, a compacted matrix (its metadata is used
   * where it lies), or 0: dense. Each must be exactly as long as its kind is. Equal to matmul of selected weights to fp32 rounding, with the
   * same independence. Reads 16 + masks bits a weight, where compacted copies are 9 bits each.
   */
  matmulMasked(y: Handle, x: Handle, w: Handle, masks: Float64Array, tokens: number, n: number, k: number): void;
  /** One, two or three products at once, w (N, K) bf16: the same bits as matmul of each. A y1 or y2 of 0 ends them. */
  matmulFused(...products: FusedProducts): void;
  /**
   * The same of packed matrices: the bits of matmul24 of each; or those of matmul24Patched, row t of product i through patches[i · tokens + t].
   * `patches` is empty where there are none. From `panelTokens` tokens on (1 … 65) a row has the bits that it has in a long prompt, if all go through
   * the same patches: panels of the weights pay from different numbers on for different shapes. A GPU chooses by itself.
   */
  matmul24Fused(...products: [...all: FusedProducts, patches: Float64Array, panelTokens: number]): void;

  // ---- 2:4 ----
  /**
   * packed (N·K·9/8 bytes, 9/16 of the dense matrix) ← the kept weights of w (N, K) bf16 with their metadata, in the order in which this
   * backend reads them: one sequential stream, whose layout is its own business. `meta` (N, K/8) bytes: one nibble a group,
   * idx0 | idx1 << 2 (idx0 < idx1), two groups a byte, low nibble first: the canonical mask code. K is a multiple of 8. Throws on a
   * nibble that names no pattern.
   */
  compress24(packed: Handle, w: Handle, meta: Handle, n: number, k: number): void;
  /** meta (N, K/8) ← the metadata of a compacted matrix. */
  nibbles24(meta: Handle, packed: Handle, n: number, k: number): void;
  /** codes (N·K/8 bytes) ← a mask in the order in which matmulMasked reads it: what a task needs that has no compacted copy. Checks `meta`. */
  codes24(codes: Handle, meta: Handle, n: number, k: number): void;
  /** Bytes of the patch that turns the compacted parent into the mask `meta` (N, K/8): some 7 a changed group and 1.4 a row. Checks `meta`. */
  patchBytes24(packed: Handle, meta: Handle, n: number, k: number): number;
  /**
   * patch (exactly patchBytes24) ← the swaps from the compacted parent to `meta`, with both weights of each from w (N, K) bf16, the parent's
   * own dense matrix. Throws where a weight that is taken out is not finite: nothing takes an infinity out of a sum again.
   */
  buildPatch24(patch: Handle, packed: Handle, w: Handle, meta: Handle, n: number, k: number): void;
  /** patchBytes24 from a list of changes: codes[i], a nibble, at group groups[i] (ascending, counted row by row). Reads those groups of the parent only. */
  changesBytes24(packed: Handle, groups: Uint32Array, codes: Uint8Array, n: number, k: number): number;
  /** buildPatch24 from a list of changes: patch (exactly changesBytes24) has the same bytes, and only changed groups of `packed` and `w` are read. */
  buildChanges24(
    patch: Handle,
    packed: Handle,
    w: Handle,
    groups: Uint32Array,
    codes: Uint8Array,
    n: number,
    k: number,
  ): void;
  /** out (N, K) bf16 ← w where kept, +0.0 elsewhere, by select (a −0.0 is not a pruned weight). */
  select24(out: Handle, w: Handle, meta: Handle, n: number, k: number): void;

  // ---- sampling: rows of logits (V) f32 ----
  /**
   * A token of each of tokens.length rows of logits (rows, V), in one call: softmax(logits / temperature), cut to the topK largest (0: all), then to
   * the smallest set whose probability reaches topP (1: all), then inverse-cdf at `uniform` in [0, 1); temperature 0: the largest. `settings`
   * (rows, 4): temperature, topK, topP, uniform. Before that deltas[i] are added to the logits of ids[i], counts[r] of them for row r, no id twice
   * (logit_bias and penalties); the logits are then as before. Same inputs, same tokens, on every ISA. Where it is recorded, `replay` gives the tokens.
   */
  sample(
    logits: Handle,
    vocab: number,
    settings: Float64Array,
    counts: Int32Array,
    ids: Int32Array,
    deltas: Float32Array,
    tokens: Int32Array,
  ): void;
  /** Index of the largest logit of row `row`, the lowest of equals. */
  argmax(logits: Handle, row: number, vocab: number): number;
  /** Natural-log probabilities of `ids` under softmax(logits[row]), computed in fp64 from fp32 logits. */
  logprobs(logits: Handle, row: number, vocab: number, ids: Int32Array, out: Float64Array): void;
  /** The `ids.length` likeliest tokens, best first (ties: lower id first), with their log-probabilities. */
  topLogprobs(logits: Handle, row: number, vocab: number, ids: Int32Array, out: Float64Array): void;

  // ---- one-shot masks (server/trainer) ----
  /** meta (N, K/8) ← the two largest |w|·scale of each group (ties: lower position). `scale` (K) f32, or 0 for magnitude. */
  scoreMask24(meta: Handle, w: Handle, scale: Handle, n: number, k: number): void;
  /** sums (K) f64 += Σ_t x[t]²  for x (T, K) f32: Wanda's ‖x‖². */
  sumSquares(sums: Handle, x: Handle, tokens: number, k: number): void;
  /** gram (K, K) f64 += xᵀ x for x (T, K) f32 (both triangles). SparseGPT's Hessian is 2/tokens of it. */
  gram(gram: Handle, x: Handle, tokens: number, k: number): void;
  /**
   * SparseGPT (arXiv 2301.00774, Algorithm 1) at 2:4: H = 2·gram/tokens, dead columns get H = 1 and w = 0, dampening
   * `damp` × mean diagonal, U = upper Cholesky factor of H⁻¹, mask chosen every 4 columns by (w/U_ii)², errors propagated
   * column by column. meta (N, K/8) receives the mask; `updated` (N, K) bf16, or 0, the compensated weights. Throws when H is not
   * positive definite (says to raise `damp` or add samples).
   */
  sparsegpt24(
    meta: Handle,
    updated: Handle,
    w: Handle,
    gram: Handle,
    tokens: number,
    n: number,
    k: number,
    damp: number,
  ): void;
}
