// Mask containers' chunks, decoded on the device into its memory.
#pragma once

#include "../include/backend.h"

namespace maskserve {
namespace cuda {

// The decoders of chunks and magnitudes are set; encoders, and what works on host memory only, are not.
const ms_codec_ops* DecodeOps();

}  // namespace cuda
}  // namespace maskserve
