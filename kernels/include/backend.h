/*
 * The op table: everything that a backend (the CPU reference in cpu/, the CUDA library of cuda/) gives to the addon.
 *
 * A C ABI: plain structs and function pointers, no exceptions and no C++ types across it. A backend in a shared library
 * exports `ms_backend_open` and `ms_backend_report`; a table whose abi_version or bytes differ from this header's is
 * refused with a reason.
 *
 * Shapes: T tokens, N output rows, K input columns, H heads, KV kv-heads, hd head dimension, V vocabulary.
 * All matrices are row-major, tokens first. Pointers are the backend's own memory (ms_backend.alloc) unless named
 * host_*. The addon has checked every extent, alignment and overlap before it calls: an op checks only the data it
 * reads.
 */
#ifndef MASKSERVE_BACKEND_H
#define MASKSERVE_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "codec.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MS_ABI_VERSION 12u

typedef int32_t ms_status;
enum {
  MS_OK = 0,
  MS_BAD_DATA = 1,      /* a value inside a buffer is not allowed; last_error says where */
  MS_OUT_OF_MEMORY = 2, /* working memory could not be had */
  MS_UNSUPPORTED = 3,   /* this backend has no kernel for the value type */
};

/* Element types. A weight is never "two bytes": ops take ms_weights, which names its type. */
typedef uint32_t ms_value_type;
enum { MS_BF16 = 1, MS_F16 = 2, MS_F32 = 3, MS_I8 = 4, MS_I4 = 5 };

/* Weights of a matrix: dense (N, K), or a 2:4 matrix in its packed form. */
typedef struct ms_weights {
  ms_value_type type;
  uint32_t group;     /* values that share a scale; 0 for types without scales */
  const void* values; /* row-major, values packed as `type` says */
  const void* scales; /* (N, K/group) f32, or NULL */
} ms_weights;

/* A 2:4 mask where matmul_masked finds it: codes24's output, or in a packed matrix; NULL: everything is kept. */
typedef struct ms_mask24 {
  const void* nibbles;
  int32_t packed;
} ms_mask24;

/* Groups of a mask that differ from the parent's, and their nibbles. */
typedef struct ms_changes24 {
  const uint32_t* groups;
  const uint8_t* codes;
  int64_t count;
} ms_changes24;

/* What build_patch24 wrote, or NULL: no patch. */
typedef struct ms_patch24 {
  const void* data;
  int64_t bytes;
} ms_patch24;

/* One of the products of an x (T, K): y (T, N) = x wT. host_patches: as matmul24_patched's, or NULL. */
typedef struct ms_product {
  float* y;
  ms_weights w;
  const ms_patch24* host_patches;
  int64_t n;
} ms_product;

/* From how many tokens on a product on a CPU packs panels of its weights, which costs as much as reading them from
 * memory does; fewer are multiplied by dot products. Above every step of decoding. */
#define MS_PANEL_TOKENS 65

/* As many of an x as one op computes. */
#define MS_MOST_PRODUCTS 3

/* Where one row of a batch of sequences is: its token's position, and its layer's caches (KV, capacity, hd). */
typedef struct ms_cache_row {
  void *keys, *values;
  int64_t position, capacity;
} ms_cache_row;

/* Attention over B whole sequences; window 0: no limit. */
typedef struct ms_attention_shape {
  int64_t batch, tokens, heads, kv_heads, head_dim;
  double scale;
  int64_t window;
} ms_attention_shape;

/* A soft mask (arXiv 2409.17481, Eq. 6, 7): patterns of n:m in lexicographic order of the kept positions, and the
 * counter of its noise. */
typedef struct ms_gumbel {
  int64_t n, m, groups;
  double scale, temperature;
  uint64_t seed;
  uint32_t step, tensor;
} ms_gumbel;

/* How a token of a row of logits is chosen: softmax(logits / temperature), cut to the top_k largest (0: all), then to
 * the smallest set whose probability reaches top_p (1: all), then inverse-cdf at `uniform`, in [0, 1); temperature 0:
 * the largest, the lowest of equals. For that deltas are added to the logits of ids (count), no two the same. */
typedef struct ms_draw {
  double temperature, top_p, uniform;
  int64_t top_k;
  const int32_t* ids;
  const float* deltas;
  int64_t count;
} ms_draw;

typedef struct ms_adamw {
  double learning_rate, beta1, beta2, epsilon, weight_decay;
  int64_t step; /* from 1 */
  double gradient_scale;
  double threshold, curvature; /* soft threshold of m/(sqrt(v) + epsilon): threshold + curvature * sqrt(v); 0: AdamW */
} ms_adamw;

/* State of one calling thread: thread pool or stream, working memory, precision, the last error. Never shared. */
typedef struct ms_context ms_context;

typedef struct ms_ops {
  /* reads every byte once, and gives the xor of its whole 64-bit words */
  ms_status (*read_through)(ms_context*, const void* data, int64_t bytes, uint64_t* host_xor);

  /* conversion: n elements; `in` may be unaligned */
  ms_status (*to_bf16)(ms_context*, uint16_t* out, const void* in, ms_value_type type, int64_t n);
  ms_status (*to_f32)(ms_context*, float* out, const void* in, ms_value_type type, int64_t n);

  /* the forward pass */
  ms_status (*embed)(ms_context*, float* out, ms_weights table, const int32_t* host_ids, int64_t tokens, int64_t dim);
  ms_status (*rmsnorm)(ms_context*, float* out, const float* x, const float* gain, int64_t rows, int64_t dim,
                       double eps);
  ms_status (*rope)(ms_context*, float* x, const float* cos, const float* sin, int64_t start, int64_t tokens,
                    int64_t heads, int64_t head_dim);
  /* caches of `type`: MS_F32 or MS_BF16 */
  ms_status (*kv_write)(ms_context*, void* cache, ms_value_type type, const float* x, int64_t start, int64_t tokens,
                        int64_t kv_heads, int64_t head_dim, int64_t capacity);
  ms_status (*attention)(ms_context*, float* out, const float* q, const void* k_cache, const void* v_cache,
                         ms_value_type type, int64_t start, int64_t tokens, int64_t heads, int64_t kv_heads,
                         int64_t head_dim, int64_t capacity, double scale, int64_t window);
  /* decoding, a token of each of `rows` sequences: q and k are rotated in place, k and v written to their caches, and
   * each row attends to its own */
  ms_status (*attend_rows)(ms_context*, float* out, float* q, float* k, const float* v, const float* cos,
                           const float* sin, const ms_cache_row* host_rows, ms_value_type type, int64_t rows,
                           int64_t heads, int64_t kv_heads, int64_t head_dim, double scale, int64_t window);
  ms_status (*silu_mul)(ms_context*, float* out, const float* gate, const float* up, int64_t n);
  ms_status (*add)(ms_context*, float* x, const float* y, int64_t n);
  ms_status (*add_bias)(ms_context*, float* x, const float* bias, int64_t rows, int64_t n);
  /* y (T, N) = x (T, K) wT. An output row depends on its own input row only: on a CPU not on the number of threads, and
   * on T only in whether MS_PANEL_TOKENS is reached (to fp32 rounding then: sums have another order); on a GPU kernels
   * are chosen by T, and a row's result is the same only to bf16 rounding. */
  ms_status (*matmul)(ms_context*, float* y, const float* x, ms_weights w, int64_t tokens, int64_t n, int64_t k);
  /* w.values: the backend's own packed form of a 2:4 matrix, as compress24 writes it */
  ms_status (*matmul24)(ms_context*, float* y, const float* x, ms_weights w, int64_t tokens, int64_t n, int64_t k);
  /* the same, each of the T tokens through its own patch */
  ms_status (*matmul24_patched)(ms_context*, float* y, const float* x, ms_weights w, const ms_patch24* host_patches,
                                int64_t tokens, int64_t n, int64_t k);
  /* several products of one x, 1 ... MS_MOST_PRODUCTS: the same bits as matmul, or matmul24 or matmul24_patched, of
   * each, with panel_tokens for MS_PANEL_TOKENS where there is one. NULL: this backend has nothing better than one
   * after another, and chooses by itself. */
  ms_status (*matmul_fused)(ms_context*, const ms_product* host_products, int64_t count, const float* x, int64_t tokens,
                            int64_t k);
  ms_status (*matmul24_fused)(ms_context*, const ms_product* host_products, int64_t count, const float* x,
                              int64_t tokens, int64_t k, int64_t panel_tokens);
  /* dense w once for all tokens, each through its own mask */
  ms_status (*matmul_masked)(ms_context*, float* y, const float* x, ms_weights w, const ms_mask24* host_masks,
                             int64_t tokens, int64_t n, int64_t k);

  /* 2:4; `meta` (N, K/8): a nibble a group, idx0 | idx1 << 2, idx0 < idx1, low nibble first; `packed` holds
   * packed_bytes(N, K) */
  ms_status (*compress24)(ms_context*, void* packed, ms_weights w, const uint8_t* meta, int64_t n, int64_t k);
  ms_status (*select24)(ms_context*, void* out, ms_weights w, const uint8_t* meta, int64_t n, int64_t k);
  /* the metadata of a packed matrix; a mask's metadata in the order in which matmul_masked reads it (as many bytes) */
  ms_status (*nibbles24)(ms_context*, uint8_t* meta, ms_weights packed, int64_t n, int64_t k);
  ms_status (*codes24)(ms_context*, uint8_t* codes, const uint8_t* meta, int64_t n, int64_t k);
  /* a patch from a packed parent to the mask `meta`: its size, and its contents, for which `bytes` must be that size */
  ms_status (*patch_bytes24)(ms_context*, ms_weights packed, const uint8_t* meta, int64_t n, int64_t k,
                             int64_t* host_bytes);
  ms_status (*build_patch24)(ms_context*, void* patch, int64_t bytes, ms_weights packed, ms_weights w,
                             const uint8_t* meta, int64_t n, int64_t k);
  /* the same to the parent with codes[i], a nibble, at group host_groups[i]: ascending, below n · k/4. What is read of
   * the parent and of w is those groups. */
  ms_status (*changes_bytes24)(ms_context*, ms_weights packed, ms_changes24 host_changes, int64_t n, int64_t k,
                               int64_t* host_bytes);
  ms_status (*build_changes24)(ms_context*, void* patch, int64_t bytes, ms_weights packed, ms_weights w,
                               ms_changes24 host_changes, int64_t n, int64_t k);

  /* NaN counts as minus infinity. A token of each of `rows` rows of logits (rows, V), which are as before when it is
   * done; where it is recorded, replays give the tokens, and take no deltas. The others: of one row (V). */
  ms_status (*sample)(ms_context*, float* logits, const ms_draw* host_draws, int64_t rows, int64_t vocab,
                      int32_t* host_tokens);
  ms_status (*argmax)(ms_context*, const float* logits, int64_t vocab, int32_t* host_token);
  ms_status (*logprobs)(ms_context*, const float* logits, int64_t vocab, const int32_t* host_ids, double* host_out,
                        int64_t count);
  ms_status (*top_logprobs)(ms_context*, const float* logits, int64_t vocab, int32_t* host_ids, double* host_out,
                            int64_t count);

  /* one-shot masks; `scale` and `updated` may be NULL */
  ms_status (*score_mask24)(ms_context*, uint8_t* meta, ms_weights w, const float* scale, int64_t n, int64_t k);
  ms_status (*sum_squares)(ms_context*, double* sums, const float* x, int64_t tokens, int64_t k);
  ms_status (*gram)(ms_context*, double* gram, const float* x, int64_t tokens, int64_t k);
  ms_status (*sparsegpt24)(ms_context*, uint8_t* meta, uint16_t* updated, ms_weights w, const double* gram,
                           int64_t tokens, int64_t n, int64_t k, double damp);

  /* training; `accumulate` adds to the output, every sum's order is fixed */
  ms_status (*linear)(ms_context*, float* y, const float* x, ms_weights w, int64_t rows, int64_t n, int64_t k);
  ms_status (*linear_backward_input)(ms_context*, float* dx, const float* dy, ms_weights w, int64_t rows, int64_t n,
                                     int64_t k, int32_t accumulate);
  ms_status (*linear_backward_weight)(ms_context*, float* dw, const float* dy, const float* x, int64_t rows, int64_t n,
                                      int64_t k, int32_t accumulate);
  /* adds to dx and, unless NULL, to dgain */
  ms_status (*rmsnorm_backward)(ms_context*, float* dx, float* dgain, const float* dy, const float* x,
                                const float* gain, int64_t rows, int64_t dim, double eps);
  ms_status (*rope_batch)(ms_context*, float* x, const float* cos, const float* sin, int64_t batch, int64_t tokens,
                          int64_t heads, int64_t head_dim, int32_t inverse);
  ms_status (*attention_forward)(ms_context*, float* out, float* lse, const float* q, const float* k, const float* v,
                                 ms_attention_shape shape);
  ms_status (*attention_backward)(ms_context*, float* dq, float* dk, float* dv, const float* dout, const float* out,
                                  const float* lse, const float* q, const float* k, const float* v,
                                  ms_attention_shape shape);
  ms_status (*silu_mul_backward)(ms_context*, float* dgate, float* dup, const float* dout, const float* gate,
                                 const float* up, int64_t n);
  /* `teacher` may be NULL; sums over rows in nats */
  ms_status (*loss_backward)(ms_context*, float* logits, const float* teacher, const int32_t* host_targets,
                             int64_t rows, int64_t vocab, double kl_weight, int64_t total_rows, double* host_lm,
                             double* host_kl);
  /* `noise` may be NULL: then it comes from the counter */
  ms_status (*gumbel_mask)(ms_context*, void* out, ms_value_type type, ms_weights w, const float* logits,
                           const float* noise, ms_gumbel settings, double* host_squares);
  ms_status (*gumbel_mask_backward)(ms_context*, float* dlogits, const float* dw, ms_weights w, const float* logits,
                                    const float* noise, ms_gumbel settings, double regularisation);
  ms_status (*argmax_patterns)(ms_context*, uint8_t* symbols, const float* logits, int64_t groups, int64_t patterns);
  ms_status (*top_two)(ms_context*, uint8_t* meta, const float* scores, int64_t groups);
  ms_status (*mul_bf16)(ms_context*, float* out, const float* a, ms_weights b, int64_t n);
  ms_status (*select24_f32)(ms_context*, uint16_t* out, const float* w, const uint8_t* meta, int64_t n, int64_t k);
  ms_status (*keep24_f32)(ms_context*, float* x, const uint8_t* meta, int64_t n, int64_t k);
  ms_status (*sum_of_squares)(ms_context*, const float* x, int64_t n, double* host_sum);
  ms_status (*scale_by)(ms_context*, float* x, double factor, int64_t n);
  /* first_moments: NULL where beta1 is 0 */
  ms_status (*adamw)(ms_context*, float* parameters, const float* gradients, float* first_moments,
                     float* second_moments, int64_t n, ms_adamw settings);
} ms_ops;

typedef struct ms_recording ms_recording;

typedef struct ms_backend {
  uint32_t abi_version;  /* MS_ABI_VERSION */
  uint32_t bytes;        /* sizeof(ms_backend) */
  const char* name;      /* "cpu", "cuda" */
  const char* isa;       /* what the kernels were compiled for */
  const char* available; /* all that this machine could run, comma separated, best first */
  const char* device;    /* what it runs on, as its maker calls it; NULL: the host's processor */
  int32_t host_memory;   /* 1: its memory is the host's, and ops take any memory of the process */

  /* memory: alloc gives zeroed, 64-byte aligned bytes, or NULL; upload and download copy from and to the host, copy
   * within this memory. What memory there is, and how much of it is free: 0, 0 where that is not known. */
  ms_status (*memory)(ms_context*, int64_t* host_free, int64_t* host_total);
  void* (*alloc)(size_t bytes);
  void (*release)(void* memory, size_t bytes);
  ms_status (*upload)(ms_context*, void* out, const void* host_in, size_t bytes);
  ms_status (*download)(ms_context*, void* host_out, const void* in, size_t bytes);
  ms_status (*copy)(ms_context*, void* out, const void* in, size_t bytes);
  ms_status (*zero)(ms_context*, void* memory, size_t bytes);

  /* contexts: one per calling thread. What one was asked for happens in order, but may happen later: download, every op
   * that gives something to the host and every op that checks data wait for it; `synchronize` only waits. What another
   * thread is to see must have been waited for. */
  ms_context* (*context_create)(void); /* NULL when memory is short */
  void (*context_destroy)(ms_context*);
  ms_status (*set_threads)(ms_context*, int32_t threads); /* 0: all cores */
  int32_t (*threads)(ms_context*);
  void (*set_exact)(ms_context*, int32_t exact); /* 1: activations keep fp32 in matmuls */
  /* from now on its ops give way to those of contexts that do not, where all wait for the device; NULL: the host's
   * threads have priorities of their own */
  ms_status (*give_way)(ms_context*);
  ms_status (*synchronize)(ms_context*);
  const char* (*last_error)(ms_context*); /* one line about the last status that was not MS_OK */

  /* bytes of the packed form of a bf16 matrix: 9/16 of its own, or what else this backend keeps with it */
  int64_t (*packed_bytes)(int64_t n, int64_t k);

  ms_ops ops;
  /* NULL: this backend has none. Without host_memory only decode_masks, decode_compressed, magnitude_mask and
   * decode_patches are there (or NULL); `weights`, `parent`, `mask`, `packed` and `packed_parent` of their tensors are
   * this backend's memory, the bytes of chunks and what patches are decoded to the host's. */
  const ms_codec_ops* codec;

  /* Steps that are done again in one go; all four are NULL where nothing is recorded. From record_begin to record_end
   * ops are kept and not done, with the addresses that they were given; what they take from the host is copied, but for
   * the ids of embed, the caches of attend_rows and the draws of sample, which each replay brings anew. An op that
   * needs to wait, or more working memory than there is, fails, and the recording with it: *host_recording is then
   * NULL. replay: `rows` ids; caches: `keys` the beginning and `values` the end of all of a row's, which lie one behind
   * the other, keys and values of one attend_rows after the other, as they did when it was recorded; draws where sample
   * was recorded (else NULL), whose tokens it waits for. *host_done 0, and nothing is done, where what it was recorded
   * with is gone (working memory has moved, the precision is another, a position is beyond what it was recorded for):
   * it has to be recorded anew. */
  ms_status (*record_begin)(ms_context*);
  ms_status (*record_end)(ms_context*, ms_recording** host_recording);
  ms_status (*replay)(ms_context*, ms_recording*, const int32_t* host_ids, const ms_cache_row* host_caches,
                      const ms_draw* host_draws, int64_t rows, int32_t* host_tokens, int32_t* host_done);
  void (*recording_free)(ms_context*, ms_recording*);
} ms_backend;

/* `ms_backend_open`: NULL, and a reason that lives as long as the library, when it can't run here. */
typedef const ms_backend* (*ms_backend_open_fn)(uint32_t abi_version, const char** reason);
/* `ms_backend_report`: what was looked for, what was found, what was refused and why, as JSON (kernels/types.ts). It
 * can be asked for whether or not the backend runs here. */
typedef const char* (*ms_backend_report_fn)(void);

#ifdef __cplusplus
}
#endif

#endif
