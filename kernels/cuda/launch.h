/*
 * The CUDA kernels as functions: what the runtime (context, memory, cuBLASLt, cuSPARSELt, the op table) calls. Plain
 * C++, no CUDA headers: it also stands in front of the same kernels compiled for the host (host/).
 *
 * Rules for all of them:
 * - Every pointer is device memory, also arrays that the op table takes from the host (ids, cache rows, patches): the
 *   caller uploads them, so that a launch can be captured in a graph. Only host_products, which a launch copies into
 * its arguments, is read on the host. 16-byte aligned where it is the start of a buffer; rows of a matrix lie as the
 * shape says.
 * - A launcher only launches, on `stream`, in stream order; it allocates nothing and waits for nothing. What went wrong
 *   with a launch is in cudaGetLastError(); what was wrong with data is in `bad`, where a launcher has one.
 * - `bad`: one uint64 that the caller has set to UINT64_MAX; the lowest offending row or index is left in it. The
 *   results are then meaningless.
 * - `workspace`: bytes as the function of the same name with `_workspace` says, 256-byte aligned, contents free unless
 *   said otherwise. It belongs to the launch until the stream has passed it.
 * - No launcher checks shapes: backend.h's caller has done so. Zero rows, tokens or elements launch nothing.
 * - Results are the same bits for the same inputs and shapes on one kind of device: sums have a fixed order, and there
 *   is no floating-point atomic anywhere.
 *
 * Shapes as in backend.h: T tokens, N output rows, K input columns, H heads, KV kv-heads, hd head dimension, V
 * vocabulary. Matrices are row-major, activations fp32, weights bf16 unless a value type is named.
 *
 * The packed form of a 2:4 matrix here: values (N, K/2) bf16, plain row-major, then the canonical nibbles (N, K/8),
 * plain row-major: N·K·9/8 bytes, where packed24_meta says. So the values can be cuSPARSELt's own on sm_8x (kernels.md
 * §1.4), nibbles24 is a copy of the tail, codes24 a copy of the metadata, and both the GEMV and mma.sp read it without
 * a second form.
 */
#ifndef MASKSERVE_CUDA_LAUNCH_H
#define MASKSERVE_CUDA_LAUNCH_H

#include <stddef.h>
#include <stdint.h>

#include "../include/backend.h"

typedef struct CUstream_st* cudaStream_t;

namespace maskserve {
namespace cuda {

/* Whether cuSPARSELt's metadata lie between a packed matrix's values and its nibbles, so that values and metadata are
 * its own form of the matrix (sparse_gemm.h): N·K/8 bytes more, for matrices that it takes (kernels.md §1.3). The
 * runtime decides that once, before anything is packed. */
inline bool& packed24_shares_values() {
  static bool shares = false;
  return shares;
}
inline bool packed24_takes_form(int64_t n, int64_t k) {
  return n % 16 == 0 && k % 32 == 0;
}
/* Where a packed matrix's nibbles begin. */
inline int64_t packed24_meta_offset(int64_t n, int64_t k) {
  return n * k + (packed24_shares_values() && packed24_takes_form(n, k) ? n * (k / 8) : 0);
}
inline uint8_t* packed24_meta(void* packed, int64_t n, int64_t k) {
  return static_cast<uint8_t*>(packed) + packed24_meta_offset(n, k);
}
inline const uint8_t* packed24_meta(const void* packed, int64_t n, int64_t k) {
  return static_cast<const uint8_t*>(packed) + packed24_meta_offset(n, k);
}

/* Whether the kernels of a decoding step begin while the one in front still runs: their launch, and their first
 * weights' way from memory, then take no time of their own (programmatic dependent launch; sm_90 on). overlap.h. */
inline bool& launches_overlap() {
  static bool overlap = false;
  return overlap;
}

/* ---- elements (elementwise.cu) ---- */

/* *out (1) ^= xor of the whole 64-bit words of `data` (bytes); the caller zeroes *out. */
void read_through(uint64_t* out, const void* data, int64_t bytes, cudaStream_t stream);
/* n elements of MS_BF16, MS_F16 or MS_F32 at `in` (aligned to its element). */
void to_bf16(uint16_t* out, const void* in, ms_value_type type, int64_t n, cudaStream_t stream);
void to_f32(float* out, const void* in, ms_value_type type, int64_t n, cudaStream_t stream);
/* out (T, D) ← rows ids[t] of table (V, D). */
void embed(float* out, const uint16_t* table, const int32_t* ids, int64_t tokens, int64_t dim, cudaStream_t stream);
/* out (n) ← silu(gate) · up; out may be gate. */
void silu_mul(float* out, const float* gate, const float* up, int64_t n, cudaStream_t stream);
/* x (n) += y. */
void add(float* x, const float* y, int64_t n, cudaStream_t stream);
/* x (rows, n) += bias (n). */
void add_bias(float* x, const float* bias, int64_t rows, int64_t n, cudaStream_t stream);
/* x (n) *= factor. */
void scale_by(float* x, double factor, int64_t n, cudaStream_t stream);
/* out (n) ← a · b, b bf16. */
void mul_bf16(float* out, const float* a, const uint16_t* b, int64_t n, cudaStream_t stream);

/* ---- normalisation and positions (norm.cu) ---- */

/* out (rows, dim) ← x / sqrt(mean(x²) + eps) · gain; out may be x. */
void rmsnorm(float* out, const float* x, const float* gain, int64_t rows, int64_t dim, double eps, cudaStream_t stream);
/* x (T, heads, hd) rotated in place, token t at position start + t; cos, sin (positions, hd/2). */
void rope(float* x, const float* cos, const float* sin, int64_t start, int64_t tokens, int64_t heads, int64_t head_dim,
          cudaStream_t stream);
/* x (batch, T, heads, hd), every sequence from position 0; inverse: back. */
void rope_batch(float* x, const float* cos, const float* sin, int64_t batch, int64_t tokens, int64_t heads,
                int64_t head_dim, int32_t inverse, cudaStream_t stream);
/* cache (KV, capacity, hd) of `type`, MS_F32 or MS_BF16, ← x (T, KV, hd) at positions start… */
void kv_write(void* cache, ms_value_type type, const float* x, int64_t start, int64_t tokens, int64_t kv_heads,
              int64_t head_dim, int64_t capacity, cudaStream_t stream);
/* Adds to dx (rows, dim) and, unless NULL, to dgain (dim). The workspace is used where dgain is wanted. */
size_t rmsnorm_backward_workspace(int64_t rows, int64_t dim);
void rmsnorm_backward(float* dx, float* dgain, const float* dy, const float* x, const float* gain, int64_t rows,
                      int64_t dim, double eps, void* workspace, cudaStream_t stream);

/* ---- attention over the caches (attention.cu); hd ≤ 256 and a multiple of 4 ---- */

constexpr int64_t kMaxHeadDim = 256;

/* out (T, H, hd) ← causal softmax(q kᵀ · scale) v over [max(0, p − window + 1), p] for the token at p = start + t;
 * caches (KV, capacity, hd) of `type`, MS_F32 or MS_BF16. */
void attention(float* out, const float* q, const void* k_cache, const void* v_cache, ms_value_type type, int64_t start,
               int64_t tokens, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t capacity, double scale,
               int64_t window, cudaStream_t stream);
/* The same on tensor cores, with q, k, v and probabilities rounded to bf16: many times as fast for long prompts. hd a
 * multiple of 16, at most kMaxMmaHeadDim. */
constexpr int64_t kMaxMmaHeadDim = 128;
void attention_mma(float* out, const float* q, const void* k_cache, const void* v_cache, ms_value_type type,
                   int64_t start, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t capacity,
                   double scale, int64_t window, cudaStream_t stream);
/* Decoding: a token of each of `rows` sequences. q (rows, H, hd) and k (rows, KV, hd) are rotated in place at
 * caches[r].position, k and v are written there, and row r attends to its own caches. `max_position`: at least the
 * largest position, and all that the grid depends on (a graph may be captured with a larger one, such as the capacity
 * of its bucket): the positions themselves are read on the device. Each row's positions are cut into splits of 64 to
 * 256 keys, by its own position, the rows and the heads, each attended by a block of its own; a second kernel joins
 * them. */
size_t attend_rows_workspace(int64_t rows, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t max_position);
void attend_rows(float* out, float* q, float* k, const float* v, const float* cos, const float* sin,
                 const ms_cache_row* caches, ms_value_type type, int64_t rows, int64_t heads, int64_t kv_heads,
                 int64_t head_dim, double scale, int64_t window, int64_t max_position, void* workspace,
                 cudaStream_t stream);

/* ---- attention over whole sequences (attention_training.cu); hd ≤ 256 and a multiple of 4 ---- */

/* out (B, T, H, hd), lse (B, H, T) ← q (B, T, H, hd), k, v (B, T, KV, hd). */
void attention_forward(float* out, float* lse, const float* q, const float* k, const float* v, ms_attention_shape shape,
                       cudaStream_t stream);
size_t attention_backward_workspace(ms_attention_shape shape);
void attention_backward(float* dq, float* dk, float* dv, const float* dout, const float* out, const float* lse,
                        const float* q, const float* k, const float* v, ms_attention_shape shape, void* workspace,
                        cudaStream_t stream);
/* The same on tensor cores (attention_mma.cu, attention_training_mma.cu), with what is multiplied rounded to bf16, many
 * times as fast; the backward pass is of this forward pass's lse. hd a multiple of 16, at most kMaxMmaHeadDim. */
void attention_forward_mma(float* out, float* lse, const float* q, const float* k, const float* v,
                           ms_attention_shape shape, cudaStream_t stream);
void attention_backward_mma(float* dq, float* dk, float* dv, const float* dout, const float* out, const float* lse,
                            const float* q, const float* k, const float* v, ms_attention_shape shape, void* workspace,
                            cudaStream_t stream);

/* ---- products of a few tokens (gemv.cu, gemv24.cu, mma24.cu): y (T, N) ← x (T, K) wᵀ ----
 * `exact`: activations keep fp32; otherwise they are rounded to bf16 to nearest even. Accumulation is fp32.
 * Any T: beyond kGemvTokens (dense) or kSparseMmaTokens (2:4) the weights are read again for every such tile of
 * tokens: correct, and what is left when no cuBLASLt or cuSPARSELt is there, or where measurement says so. */
constexpr int64_t kGemvTokens = 4;
constexpr int64_t kSparseMmaTokens = 16;

/* Dense w (N, K), any K. */
void matmul(float* y, const float* x, const uint16_t* w, int64_t tokens, int64_t n, int64_t k, int32_t exact,
            cudaStream_t stream);
/* The products of one x with 1 … MS_MOST_PRODUCTS matrices in one launch, each with the bits that `matmul` gives it: a
 * matrix of few rows need not fill the machine by itself, and memory does not idle between q, k and v. Of a product, y,
 * n and w.values count; its patches are not looked at. */
void matmul_fused(const ms_product* host_products, int64_t count, const float* x, int64_t tokens, int64_t k,
                  int32_t exact, cudaStream_t stream);
/* Packed w. T ≤ 4, `exact`, or K not a multiple of 64: the CUDA-core GEMV; else mma.sp, 16 tokens at a time. A row that
 * prunes a place whose activation is not finite becomes NaN, as in a dense product, unless `spread` is false: before
 * add_patches24, which does that for the patched rows. */
void matmul24(float* y, const float* x, const void* packed, int64_t tokens, int64_t n, int64_t k, int32_t exact,
              cudaStream_t stream, bool spread = true);
/* As matmul_fused. How many rows a block of mma.sp takes goes by all of them together. */
void matmul24_fused(const ms_product* host_products, int64_t count, const float* x, int64_t tokens, int64_t k,
                    int32_t exact, cudaStream_t stream, bool spread = true);
/* The two kernels behind it by themselves, for measuring: gemv24 takes any shape, mma24 needs K % 64 = 0. */
void gemv24(float* y, const float* x, const void* packed, int64_t tokens, int64_t n, int64_t k, int32_t exact,
            cudaStream_t stream, bool spread = true);
void mma24(float* y, const float* x, const void* packed, int64_t tokens, int64_t n, int64_t k, cudaStream_t stream,
           bool spread = true);
void mma24_fused(const ms_product* host_products, int64_t count, const float* x, int64_t tokens, int64_t k,
                 cudaStream_t stream, bool spread = true);

/* y (T, N) += Δ x, token t through patches[t] (data NULL: nothing), in the layout of patch24.cuh, and NaN where the
 * token's mask prunes a place whose activation is not finite: after matmul24 without `spread`, or after cuSPARSELt,
 * this is matmul24_patched. Patches' headers have been checked by the caller (it made them, or downloads the 32 bytes).
 */
void add_patches24(float* y, const float* x, const ms_patch24* patches, const void* packed, int64_t tokens, int64_t n,
                   int64_t k, int32_t exact, cudaStream_t stream);
/* To several products of one x in one launch; host_patches of each: on the device, as `patches`. */
void add_patches24_fused(const ms_product* host_products, int64_t count, const float* x, int64_t tokens, int64_t k,
                         int32_t exact, cudaStream_t stream);
/* Dense w (N, K), K % 8 = 0, read once for four tokens, each through its own mask: masks[t].nibbles NULL: everything,
 * packed 0: the canonical nibbles (N, K/8), packed 1: a packed matrix (whose nibbles the launcher finds on the host, by
 * packed24_meta_offset). */
void matmul_masked(float* y, const float* x, const uint16_t* w, const ms_mask24* masks, int64_t tokens, int64_t n,
                   int64_t k, int32_t exact, cudaStream_t stream);

/* ---- 2:4 forms (compress24.cu); K % 8 = 0. `bad` ← the first row of meta with a nibble that names no pattern ---- */

/* packed (N·K·9/8 bytes) ← kept weights and nibbles. */
void compress24(void* packed, const uint16_t* w, const uint8_t* meta, int64_t n, int64_t k, uint64_t* bad,
                cudaStream_t stream);
/* out (N, K) ← w where kept, +0 elsewhere. */
void select24(uint16_t* out, const uint16_t* w, const uint8_t* meta, int64_t n, int64_t k, uint64_t* bad,
              cudaStream_t stream);
/* out (N, K) bf16 ← w (N, K) fp32 where kept, +0 elsewhere. */
void select24_f32(uint16_t* out, const float* w, const uint8_t* meta, int64_t n, int64_t k, uint64_t* bad,
                  cudaStream_t stream);
/* x (N, K) fp32 ← +0 where not kept. */
void keep24_f32(float* x, const uint8_t* meta, int64_t n, int64_t k, uint64_t* bad, cudaStream_t stream);
/* out (N·K/8 bytes) ← meta, checked: codes24. nibbles24 is a plain copy from packed24_meta. */
void check_meta24(uint8_t* out, const uint8_t* meta, int64_t n, int64_t k, uint64_t* bad, cudaStream_t stream);
/* Swaps the mask of a packed matrix for another in place, where they differ (a task that is a patch of a resident
 * parent, on a copy of it): packed's positions[i] get codes[i] and their values from w. */
void recompress24(void* packed, const uint16_t* w, const uint32_t* positions, const uint8_t* codes, int64_t changes,
                  int64_t n, int64_t k, cudaStream_t stream);

/* ---- patches (patch24.cu), in the layout of patch24.cuh ----
 * offsets (N·S + 1) uint32, S = ⌈K / 2¹⁸⌉; total (1): bytes of all swaps, before they are cut to 32 bits. The patch's
 * size is 32 + 4 · (N·S + 1) + total + 4; the caller refuses a total above UINT32_MAX. */
void patch_offsets24(uint32_t* offsets, int64_t* total, const void* packed, const uint8_t* meta, int64_t n, int64_t k,
                     uint64_t* bad, cudaStream_t stream);
/* patch ← header, offsets (copied) and swaps. `bad`: the first row with a weight going out that is not finite. */
void build_patch24(void* patch, const uint32_t* offsets, const void* packed, const uint16_t* w, const uint8_t* meta,
                   int64_t n, int64_t k, uint64_t* bad, cudaStream_t stream);

/* ---- sampling (sampling.cu, logprobs.cu), from rows of logits (rows, V) at once; NaN counts as minus infinity ---- */

/* tokens (rows) ← the lowest id of the largest logit. */
size_t argmax_workspace(int64_t rows, int64_t vocab);
void argmax(int32_t* tokens, const float* logits, int64_t rows, int64_t vocab, void* workspace, cudaStream_t stream);
/* tokens (rows) ← one draw a row, by draws[r] (rows), whose ids and deltas are device memory too. Weights are integers,
 * exp(·) · 2⁴⁵: sums don't depend on their order, and differ from the CPU's fp64 ones by less than 2⁻⁴⁵ a candidate.
 * V ≤ kMostSampled. Logits are as before when it is done. */
constexpr int64_t kMostSampled = int64_t{1} << 18;
size_t sample_workspace(int64_t rows, int64_t vocab);
void sample(int32_t* tokens, float* logits, const ms_draw* draws, int64_t rows, int64_t vocab, void* workspace,
            cudaStream_t stream);
/* out (count) ← ln of the probabilities of ids (count), of one row. */
void logprobs(double* out, const int32_t* ids, const float* logits, int64_t vocab, int64_t count, cudaStream_t stream);
/* ids, out (count) ← the best `count` of one row in order. */
void top_logprobs(int32_t* ids, double* out, const float* logits, int64_t vocab, int64_t count, cudaStream_t stream);

/* ---- masks from scores (masks.cu) ---- */

/* meta (N, K/8) ← the two largest |w| · scale (K, or NULL: 1) of each group. */
void score_mask24(uint8_t* meta, const uint16_t* w, const float* scale, int64_t n, int64_t k, cudaStream_t stream);
/* meta (groups / 2) ← the two largest of scores (groups, 4); groups is even. */
void top_two(uint8_t* meta, const float* scores, int64_t groups, cudaStream_t stream);
/* symbols (groups) ← the best of logits (groups, patterns). */
void argmax_patterns(uint8_t* symbols, const float* logits, int64_t groups, int64_t patterns, cudaStream_t stream);
/* sums (K) += Σ_t x². */
void sum_squares(double* sums, const float* x, int64_t tokens, int64_t k, cudaStream_t stream);
/* gram (K, K) += xᵀ x, both triangles. */
void gram(double* gram, const float* x, int64_t tokens, int64_t k, cudaStream_t stream);

/* ---- products of many tokens (gemm.cu): tiled, for what cuBLASLt does not do ----
 * w: MS_BF16 or MS_F32. exact: products in fp32 on CUDA cores; else bf16 on tensor cores (mma.m16n8k16), fp32 sums. */

/* y (T, N) ← x (T, K) wᵀ. */
void linear(float* y, const float* x, const void* w, ms_value_type type, int64_t rows, int64_t n, int64_t k,
            int32_t exact, cudaStream_t stream);
/* dx (T, K) ← or += dy (T, N) w. */
void linear_backward_input(float* dx, const float* dy, const void* w, ms_value_type type, int64_t rows, int64_t n,
                           int64_t k, int32_t accumulate, int32_t exact, cudaStream_t stream);
/* dw (N, K) ← or += dyᵀ x. */
void linear_backward_weight(float* dw, const float* dy, const float* x, int64_t rows, int64_t n, int64_t k,
                            int32_t accumulate, int32_t exact, cudaStream_t stream);

/* ---- the rest of training (training.cu, gumbel.cu) ---- */

void silu_mul_backward(float* dgate, float* dup, const float* dout, const float* gate, const float* up, int64_t n,
                       cudaStream_t stream);
/* logits (rows, V) → gradient in place. losses (rows, 2): each row's cross-entropy and KL in nats (KL 0 without a
 * teacher); the caller adds them up. targets (rows). */
void loss_backward(float* logits, double* losses, const float* teacher, const int32_t* targets, int64_t rows,
                   int64_t vocab, double kl_weight, int64_t total_rows, cudaStream_t stream);
/* squares (gumbel_blocks(groups)): Σ (w ∘ M̃)² of each block, which the caller adds up in order. Noise as in
 * cpu/gumbel.cpp, from the same Philox counters. out: MS_BF16 or MS_F32. */
int64_t gumbel_blocks(int64_t groups);
void gumbel_mask(void* out, ms_value_type type, double* squares, const uint16_t* w, const float* logits,
                 const float* noise, ms_gumbel settings, cudaStream_t stream);
void gumbel_mask_backward(float* dlogits, const float* dw, const uint16_t* w, const float* logits, const float* noise,
                          ms_gumbel settings, double regularisation, cudaStream_t stream);
/* sums (square_blocks(n)): fp64 sums of runs of 65,536 elements, which the caller adds up in order. */
int64_t square_blocks(int64_t n);
void sum_of_squares(double* sums, const float* x, int64_t n, cudaStream_t stream);
void adamw(float* parameters, const float* gradients, float* first_moments, float* second_moments, int64_t n,
           ms_adamw settings, cudaStream_t stream);

/* ---- mask containers (decode_masks.cu, decode_patches.cu, checksum.cu): codec.h's decoders ----
 * The caller passes tables that FORMAT.md allows. `tensors` (count) and `chunks` (chunk_count) are device arrays of
 * codec.h's structs whose pointers are device pointers; a chunk's bytes are 4-byte aligned. chunks[c].status ←
 * MS_CHUNK_OK, _OVERRUN or _POSITION; one that was _CHECKSUM stays so and is not decoded. Whatever the bytes, nothing
 * outside them and the tensors is touched. */

/* status ← MS_CHUNK_OK or _CHECKSUM (checksum.cu). tables: what the host's checksum_tables() gives, on the device. */
constexpr int64_t kChecksumTableBytes = 8192;
const void* checksum_tables();
void check_chunks(ms_mask_chunk* chunks, int64_t chunk_count, const void* tables, cudaStream_t stream);

/* Coders 2–7. all_steps: first_step of the last tensor plus its steps. */
void decode_masks(const ms_mask_tensor* tensors, int64_t count, int64_t chunk_steps, int64_t first_step,
                  int64_t all_steps, ms_mask_chunk* chunks, int64_t chunk_count, cudaStream_t stream);
/* Coder 10, one tensor given by its fields: mask (⌈groups / 2⌉ bytes) ← the two largest magnitudes. */
void magnitude_mask(uint8_t* mask, const uint16_t* weights, int64_t groups, cudaStream_t stream);
/* Coders 8, 9. first (chunk_count + 1), gaps (65): device. Fills positions and codes. */
void decode_patches(const ms_mask_tensor* tensors, const int64_t* first, const uint16_t* gaps, ms_mask_chunk* chunks,
                    int64_t chunk_count, cudaStream_t stream);
/* mask ← parent with codes[i] at positions[i], ascending; mask may be parent. */
void apply_changes(uint8_t* mask, const uint8_t* parent, int64_t groups, const uint32_t* positions,
                   const uint8_t* codes, int64_t changes, cudaStream_t stream);

} /* namespace cuda */
} /* namespace maskserve */

#endif
