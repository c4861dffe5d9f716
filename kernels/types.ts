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

/** A native buffer. 0 is never valid; where an op takes an optional buffer, 0 means "none". */
export type Handle = number & { readonly __handle: unique symbol };

export const NO_BUFFER = 0 as Handle;

/** Element types of a weight file. Everything but bf16 is converted once when a model is loaded. */
export type DType = 'bf16' | 'f16' | 'f32';

export interface NativeAddon extends NativeBackends, NativeCodec {
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
  /** cache (KV, capacity, hd) f32 ← x (T, KV, hd) at positions start… */
  kvWrite(
    cache: Handle,
    x: Handle,
    start: number,
    tokens: number,
    kvHeads: number,
    headDim: number,
    capacity: number,
  ): void;
  /**
   * out (T, H, hd) ← causal softmax(q kᵀ · scale) v, grouped queries, over positions [max(0, p − window + 1), p] for the
   * token at p = start + t; window 0: no limit (Mistral's sliding window otherwise). kCache, vCache: (KV, capacity, hd) f32.
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
  ): void;
  /**
   * Decoding a batch, one token of each of R sequences (R = positions.length): q (R, H, hd) and k (R, KV, hd) are rotated in place at
   * positions[r], k and v (R, KV, hd) are written there into keys[r] and values[r] (KV, capacities[r], hd), and out (R, H, hd) ← attention
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
  ): void;
  /** out (n) ← silu(gate) · up. `out` may be `gate`. */
  siluMul(out: Handle, gate: Handle, up: Handle, n: number): void;
  /** x (n) += y. */
  add(x: Handle, y: Handle, n: number): void;
  /** x (rows, N) += bias (N) f32 (Qwen2's q/k/v bias). */
  addBias(x: Handle, bias: Handle, rows: number, n: number): void;
  /** y (T, N) ← x (T, K) · wᵀ, w (N, K) bf16. The result of a row does not depend on T or on the number of threads. */
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

  // ---- sampling: one row of logits (V) f32 at `row` ----
  /** logits[row, ids[i]] += deltas[i]: logit_bias and penalties. */
  addSparse(logits: Handle, row: number, vocab: number, ids: Int32Array, deltas: Float32Array): void;
  /** Index of the largest logit, the lowest of equals. */
  argmax(logits: Handle, row: number, vocab: number): number;
  /**
   * Draws a token: softmax(logits / temperature), cut to the topK largest (0: all), then to the smallest set whose
   * probability reaches topP (1: all), then inverse-cdf at `uniform` in [0, 1). Same inputs, same token, on every ISA.
   */
  sample(
    logits: Handle,
    row: number,
    vocab: number,
    temperature: number,
    topK: number,
    topP: number,
    uniform: number,
  ): number;
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

  // ---- training (server/trainer): B sequences of T tokens, rows = B·T; gradients and optimizer state f32 ----
  /**
   * y (rows, N) ← x (rows, K) · wᵀ for w (N, K) of `type` ('bf16' or 'f32'): `matmul` where weights may be soft-masked in fp32, and
   * faster for many rows, but not bit-equal to it. A row's bits depend neither on the number of rows nor on the threads. In precision
   * 'bf16' both operands are rounded to bf16 where the CPU multiplies bf16; so in the two gradients.
   */
  linear(y: Handle, x: Handle, w: Handle, type: DType, rows: number, n: number, k: number): void;
  /** dx (rows, K) ← dy (rows, N) · w, or += when `accumulate`. */
  linearBackwardInput(
    dx: Handle,
    dy: Handle,
    w: Handle,
    type: DType,
    rows: number,
    n: number,
    k: number,
    accumulate: boolean,
  ): void;
  /** dw (N, K) f32 ← dyᵀ x, or += when `accumulate`. */
  linearBackwardWeight(
    dw: Handle,
    dy: Handle,
    x: Handle,
    rows: number,
    n: number,
    k: number,
    accumulate: boolean,
  ): void;
  /** dx (rows, D) += gradient of rmsnorm; dgain (D) f32 += its gradient, or 0. dx may not be dy. */
  rmsnormBackward(
    dx: Handle,
    dgain: Handle,
    dy: Handle,
    x: Handle,
    gain: Handle,
    rows: number,
    dim: number,
    eps: number,
  ): void;
  /** rope over B sequences that each start at position 0: x (B, T, heads, hd) in place; `inverse` rotates back (the gradient). */
  ropeBatch(
    x: Handle,
    cos: Handle,
    sin: Handle,
    batch: number,
    tokens: number,
    heads: number,
    headDim: number,
    inverse: boolean,
  ): void;
  /**
   * Causal attention without a cache: out, q (B, T, H, hd); k, v (B, T, KV, hd); lse (B, H, T) f32 keeps each row's log-sum-exp for the
   * backward pass. `window` as in `attention`.
   */
  attentionForward(
    out: Handle,
    lse: Handle,
    q: Handle,
    k: Handle,
    v: Handle,
    batch: number,
    tokens: number,
    heads: number,
    kvHeads: number,
    headDim: number,
    scale: number,
    window: number,
  ): void;
  /** dq, dk, dv ← gradients, recomputing the probabilities from lse (FlashAttention-2, arXiv 2307.08691, Algorithm 2). */
  attentionBackward(
    dq: Handle,
    dk: Handle,
    dv: Handle,
    dout: Handle,
    out: Handle,
    lse: Handle,
    q: Handle,
    k: Handle,
    v: Handle,
    batch: number,
    tokens: number,
    heads: number,
    kvHeads: number,
    headDim: number,
    scale: number,
    window: number,
  ): void;
  /** dgate, dup (n) ← gradients of silu(gate)·up. dgate may be dout. */
  siluMulBackward(dgate: Handle, dup: Handle, dout: Handle, gate: Handle, up: Handle, n: number): void;
  /**
   * logits (rows, V) → their gradient, in place: (softmax − (1 − klWeight)·onehot(target) − klWeight·softmax(teacher)) / totalRows.
   * teacher: (rows, V) logits, or 0 when klWeight is 0. Returns the sums over rows of −log p(target) and of KL(teacher ‖ student), nats;
   * kl is 0 without a teacher, and measured with one whatever its weight. A NaN among the logits makes the sums NaN.
   */
  lossBackward(
    logits: Handle,
    teacher: Handle,
    targets: Int32Array,
    rows: number,
    vocab: number,
    klWeight: number,
    totalRows: number,
  ): { lm: number; kl: number };
  /**
   * MaskLLM's soft mask (arXiv 2409.17481, Eq. 6, 7): p = softmax((π·scale + g) / temperature) over the P patterns of n:m, M̃ = Σ p·pattern,
   * out (N, K) of `type` ('bf16' or 'f32') ← W ⊙ M̃ for w (N, K) bf16, groups = N·K/m. logits (groups, P) f32, patterns in lexicographic order
   * of the kept positions; n:m is 1:4, 2:4 or 4:8. g: Gumbel noise read from `noise` (groups, P) f32 if not 0, else −ln(−ln u) with
   * u = (x >> 8)·2⁻²⁴ clamped to [1e-9, 1 − 2⁻²³], where x is word (pattern mod 4) of Philox4x32-10 (Salmon et al. 2011) with key `seed` and
   * counter (group, ⌊pattern / 4⌋, tensor, step): the same u on every instruction set. Returns Σ (W ⊙ M̃)² (Eq. 8), before `out` is rounded.
   */
  gumbelMask(
    out: Handle,
    type: DType,
    w: Handle,
    logits: Handle,
    noise: Handle,
    n: number,
    m: number,
    groups: number,
    scale: number,
    temperature: number,
    seed: number,
    step: number,
    tensor: number,
  ): number;
  /**
   * dlogits (groups, P) f32 ← ∂/∂π of loss − regularisation·Σ(W ⊙ M̃)², from dw (N, K) f32 = ∂loss/∂(W ⊙ M̃); recomputes p with the same
   * noise.
   */
  gumbelMaskBackward(
    dlogits: Handle,
    dw: Handle,
    w: Handle,
    logits: Handle,
    noise: Handle,
    n: number,
    m: number,
    groups: number,
    scale: number,
    temperature: number,
    seed: number,
    step: number,
    tensor: number,
    regularisation: number,
  ): void;
  /** symbols (groups) bytes ← argmax over the P logits of each group (ties: lower symbol): the final mask. */
  argmaxPatterns(symbols: Handle, logits: Handle, groups: number, patterns: number): void;
  /** meta (groups/2 bytes) ← the two largest of each group's four scores (groups, 4) f32 (ties: lower position). */
  topTwo(meta: Handle, scores: Handle, groups: number): void;
  /** out (n) f32 ← a·b with b bf16: dM = dW ⊙ W, the straight-through gradient of four scores. `out` may be `a`. */
  mulBf16(out: Handle, a: Handle, b: Handle, n: number): void;
  /** out (N, K) bf16 ← w (N, K) f32 where `meta` keeps it, +0.0 elsewhere: the forward weights of sparse fine-tuning. */
  select24F32(out: Handle, w: Handle, meta: Handle, n: number, k: number): void;
  /** x (N, K) f32 is zeroed where `meta` prunes: gradients of kept weights only. */
  keep24F32(x: Handle, meta: Handle, n: number, k: number): void;
  /** Σ x² in fp64, in an order that does not depend on threads. */
  sumOfSquares(x: Handle, n: number): number;
  /** x (n) f32 ×= factor. */
  scaleBy(x: Handle, factor: number, n: number): void;
  /**
   * AdamW (arXiv 1711.05101) over n f32 parameters, decoupled weight decay, bias-corrected at `step` (from 1), gradients multiplied by
   * `gradientScale` first (clipping). `firstMoments` may be NO_BUFFER where beta1 is 0.
   */
  adamw(
    parameters: Handle,
    gradients: Handle,
    firstMoments: Handle,
    secondMoments: Handle,
    n: number,
    settings: {
      readonly learningRate: number;
      readonly beta1: number;
      readonly beta2: number;
      readonly epsilon: number;
      readonly weightDecay: number;
      readonly step: number;
      readonly gradientScale: number;
      /**
       * Above 0 a parameter moves by learningRate · soft(m̂/(√v̂ + ε), threshold + curvature · √v̂): what is not steady from step to step, or so
       * large that its curvature outweighs it, stays.
       */
      readonly threshold: number;
      readonly curvature: number;
    },
  ): void;
}
