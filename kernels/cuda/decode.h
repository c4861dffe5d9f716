// Mask containers' chunks, decoded on the device into its memory.
#pragma once

#include "../include/backend.h"

namespace maskserve {
namespace cuda {

// Only decode_masks is set.
const ms_codec_ops* DecodeOps();

}  // namespace cuda
}  // namespace maskserve
