/*
 * The codec's part of a backend: the fast coders of the mask container (codec/FORMAT.md §7–§9), for 2:4. All pointers
 * are host memory. The caller has read and checked the container's tables; the bytes of a chunk may be anything.
 */
#ifndef MASKSERVE_CODEC_H
#define MASKSERVE_CODEC_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ms_context ms_context;
typedef int32_t ms_status;

/* Coder ids of FORMAT.md §7. */
enum {
  MS_CODER_UNIFORM_AC = 1,
  MS_CODER_UNIFORM = 2,
  MS_CODER_STATIC = 3,
  MS_CODER_PARENT = 4,
  MS_CODER_WEIGHTS = 5,
  MS_CODER_SCALED_WEIGHTS = 6,
  MS_CODER_PARENT_WEIGHTS = 7,
  MS_CODER_PATCH = 8,
  MS_CODER_PATCH_WEIGHTS = 9,
  MS_CODER_MAGNITUDE = 10,
};

/* What became of a chunk. */
enum {
  MS_CHUNK_OK = 0,
  MS_CHUNK_CHECKSUM = 1,   /* its bytes differ from its checksum */
  MS_CHUNK_OVERRUN = 2,    /* it does not end with its last symbol */
  MS_CHUNK_POSITION = 3,   /* it changes a group beyond its tensor */
  MS_CHUNK_BAD_SYMBOL = 4, /* encoder: a symbol that its table gives no frequency, or a code that is no pattern */
};

/* One matrix to be coded. Masks are nibbles, two groups a byte, ⌈groups / 2⌉ bytes; what the coder does not need is
 * NULL. */
typedef struct ms_mask_tensor {
  uint32_t coder;
  uint32_t contexts; /* tables in `starts`: 1, or those of FORMAT.md §5 */
  int64_t groups;    /* rows · cols / 4 */
  int64_t cols;
  int64_t first_step;      /* 32-group steps of the tensors before it */
  int64_t changes;         /* patch coders: groups that differ from the parent's */
  const uint16_t* starts;  /* (contexts, 8): where each symbol's slots start, start[6] = 2^14 */
  const uint16_t* weights; /* (rows, cols) bf16 */
  const int16_t* scales;   /* (cols): 16 · (t − 32) */
  const uint8_t* parent;
  uint8_t* mask;       /* written by decoders (NULL: not wanted), read by encoders */
  uint32_t* positions; /* patch coders: (changes) changed groups, ascending; */
  uint8_t* codes;      /* (changes) their nibbles */
  const uint8_t*
      packed_parent; /* decode_patches, in place of `parent`: its matrix as compress24 wrote it, cols % 8 = 0 */
  uint8_t* packed;   /* decode_compressed: what compress24 would write for mask and weights, cols % 64 = 0 */
} ms_mask_tensor;

typedef struct ms_mask_chunk {
  const uint8_t* bytes;
  int64_t length;
  uint32_t checksum; /* CRC-32C of the bytes */
  int32_t status;    /* out */
} ms_mask_chunk;

/* The file that has the chunks of a call. Bytes that it does not have, or does not give, count as zeros: the checksum
 * tells. */
typedef struct ms_chunk_file {
  int32_t descriptor;
  const int64_t* offsets; /* of each chunk */
} ms_chunk_file;

/* Where an encoder writes a chunk: `bytes` has room for the chunk's bound, `length` and `checksum` are set. */
typedef struct ms_mask_output {
  uint8_t* bytes;
  int64_t capacity, length;
  uint32_t checksum;
  int32_t status;
} ms_mask_output;

typedef struct ms_codec_ops {
  /* Symbol chunks of the sequence of all steps of `tensors` (coders 2–7): chunk c has chunk_steps steps, or what is
   * left, from first_step + c · chunk_steps. */
  ms_status (*decode_masks)(ms_context*, const ms_mask_tensor* tensors, int64_t count, int64_t chunk_steps,
                            int64_t first_step, ms_mask_chunk* chunks, int64_t chunk_count);
  /* The same, to `packed` in place of `mask`: all tensors have weights. No tensor's nibbles are in memory at once.
   * `file`: has the chunks, whose `bytes` are not looked at; or NULL. Working memory is bounded.
   * *host_share: what of the threads' time went into compacting, 0 to 1. */
  ms_status (*decode_compressed)(ms_context*, const ms_mask_tensor* tensors, int64_t count, int64_t chunk_steps,
                                 int64_t first_step, ms_mask_chunk* chunks, int64_t chunk_count,
                                 const ms_chunk_file* file, double* host_share);
  ms_status (*encode_masks)(ms_context*, const ms_mask_tensor* tensors, int64_t count, int64_t chunk_steps,
                            int64_t first_step, ms_mask_output* chunks, int64_t chunk_count);
  /* counts (contexts, 8) += how often each coded symbol occurs in each context. 1 in *bad where a code is no pattern.
   */
  ms_status (*count_symbols)(ms_context*, const ms_mask_tensor* tensor, uint32_t* counts, int32_t* bad);
  /* mask ← the two largest magnitudes of each group. */
  ms_status (*magnitude_mask)(ms_context*, const ms_mask_tensor* tensor);

  /* Patch chunks: chunk c holds tensors first[c] … first[c + 1] − 1, all with changes. gaps (65): starts of the 64 gap
   * symbols. The decoder fills positions and codes; the encoder reads them. */
  ms_status (*decode_patches)(ms_context*, const ms_mask_tensor* tensors, const int64_t* first, const uint16_t* gaps,
                              ms_mask_chunk* chunks, int64_t chunk_count);
  ms_status (*encode_patches)(ms_context*, const ms_mask_tensor* tensors, const int64_t* first, const uint16_t* gaps,
                              ms_mask_output* chunks, int64_t chunk_count);
  /* mask ← parent with codes[i] at group positions[i]; `mask` may be `parent`. Positions ascend below groups. */
  ms_status (*apply_changes)(ms_context*, uint8_t* mask, const uint8_t* parent, int64_t groups,
                             const uint32_t* positions, const uint8_t* codes, int64_t changes);
  /* positions (room for `groups`), codes ← where mask differs from parent; *changes ← how often. */
  ms_status (*find_changes)(ms_context*, const uint8_t* mask, const uint8_t* parent, int64_t groups,
                            uint32_t* positions, uint8_t* codes, int64_t* changes);

  /* One lane of 64-symbol tables: scales of all columns, `count` in all; starts (65). */
  ms_status (*decode_scales)(ms_context*, ms_mask_chunk* chunk, const uint16_t* starts, int16_t* scales, int64_t count);
  /* uniform-ac: `chunk_symbols` groups a chunk of one tensor, from its start. */
  ms_status (*decode_uniform_ac)(ms_context*, const ms_mask_tensor* tensor, int64_t chunk_symbols,
                                 ms_mask_chunk* chunks, int64_t chunk_count);

  uint32_t (*crc32c)(const uint8_t* bytes, int64_t length);
  /* Pattern numbers, one a byte, to nibbles and back; false where one is no pattern. */
  int32_t (*pack_symbols)(ms_context*, uint8_t* nibbles, const uint8_t* symbols, int64_t groups);
  int32_t (*unpack_symbols)(ms_context*, uint8_t* symbols, const uint8_t* nibbles, int64_t groups);
} ms_codec_ops;

#ifdef __cplusplus
}
#endif

#endif
