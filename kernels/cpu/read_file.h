// Bytes of an open file, by any thread: its position is nobody's.
#pragma once

#include <cstdint>

namespace maskserve {

// What the file does not have, or does not give, is zeros.
void ReadFileBytes(int32_t descriptor, int64_t offset, void* to, int64_t bytes);

}  // namespace maskserve
