// The codec's ops of one instruction set, as include/codec.h describes them.
#pragma once

#include "ops.h"

namespace maskserve {
namespace ISA {

ms_status DecodeMasks(ms_context*, const ms_mask_tensor* tensors, int64_t count, int64_t chunk_steps,
                      int64_t first_step, ms_mask_chunk* chunks, int64_t chunk_count);
ms_status DecodeCompressed(ms_context*, const ms_mask_tensor* tensors, int64_t count, int64_t chunk_steps,
                           int64_t first_step, ms_mask_chunk* chunks, int64_t chunk_count, const ms_chunk_file* file,
                           double* share);
ms_status EncodeMasks(ms_context*, const ms_mask_tensor* tensors, int64_t count, int64_t chunk_steps,
                      int64_t first_step, ms_mask_output* chunks, int64_t chunk_count);
ms_status CountSymbols(ms_context*, const ms_mask_tensor* tensor, uint32_t* counts, int32_t* bad);
ms_status MagnitudeMask(ms_context*, const ms_mask_tensor* tensor);
ms_status DecodePatches(ms_context*, const ms_mask_tensor* tensors, const int64_t* first, const uint16_t* gaps,
                        ms_mask_chunk* chunks, int64_t chunk_count);
ms_status EncodePatches(ms_context*, const ms_mask_tensor* tensors, const int64_t* first, const uint16_t* gaps,
                        ms_mask_output* chunks, int64_t chunk_count);
ms_status ApplyChanges(ms_context*, uint8_t* mask, const uint8_t* parent, int64_t groups, const uint32_t* positions,
                       const uint8_t* codes, int64_t changes);
ms_status FindChanges(ms_context*, const uint8_t* mask, const uint8_t* parent, int64_t groups, uint32_t* positions,
                      uint8_t* codes, int64_t* changes);
ms_status DecodeScales(ms_context*, ms_mask_chunk* chunk, const uint16_t* starts, int16_t* scales, int64_t count);
ms_status DecodeUniformAc(ms_context*, const ms_mask_tensor* tensor, int64_t chunk_symbols, ms_mask_chunk* chunks,
                          int64_t chunk_count);
uint32_t Checksum(const uint8_t* bytes, int64_t length);
int32_t PackSymbols(ms_context*, uint8_t* nibbles, const uint8_t* symbols, int64_t groups);
int32_t UnpackSymbols(ms_context*, uint8_t* symbols, const uint8_t* nibbles, int64_t groups);

}  // namespace ISA
}  // namespace maskserve
