/** What training adds to the ops of serving (server/trainer): B sequences of T tokens, rows = B·T; gradients and optimizer state f32. */
import type { DType, Handle } from './handle.js';

export interface NativeTraining {
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
