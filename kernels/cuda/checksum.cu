// CRC-32C of chunks (RFC 3720 §B.4), compared with what the container says, so that no thread of the host looks at a
// byte of them: a warp a chunk, before it is decoded.
//
// A state is a polynomial, and what further bytes do to it is linear: lane i takes every 32nd word from word i on, and
// advances what it has by 128 bytes in between; then the lanes' remainders are put together as if each were one more
// word. An advance is four rows of a table in shared memory. 32 bits a lane and some 30 instructions: 0.5 GB of chunks
// take less than a millisecond.

#include "device.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kChunksOfBlock = 8;
constexpr uint32_t kPolynomial = 0x82f63b78u;
constexpr int64_t kRound = 4 * kWarp;  // bytes

// Rows of bytes 0 to 3 of a state that advances by so many bytes.
struct Advance {
  uint32_t row[4][256];
};
struct Tables {
  Advance by_word, by_round;
};
static_assert(sizeof(Tables) == kChecksumTableBytes, "launch.h says how large they are");

inline __host__ __device__ uint32_t AfterByte(uint32_t state) {
  for (int bit = 0; bit < 8; ++bit) state = state >> 1 ^ ((state & 1) != 0 ? kPolynomial : 0);
  return state;
}

Advance AdvanceBy(int64_t bytes) {
  uint32_t of_bit[32];
  for (int bit = 0; bit < 32; ++bit) {
    of_bit[bit] = 1u << bit;
    for (int64_t i = 0; i < bytes; ++i) of_bit[bit] = AfterByte(of_bit[bit]);
  }
  Advance advance = {};
  for (int byte = 0; byte < 4; ++byte) {
    for (uint32_t value = 0; value < 256; ++value) {
      for (int bit = 0; bit < 8; ++bit) {
        advance.row[byte][value] ^= (value >> bit & 1) != 0 ? of_bit[8 * byte + bit] : 0;
      }
    }
  }
  return advance;
}

// Of the host: made when the library is loaded.
const Tables tables_of_host = {AdvanceBy(4), AdvanceBy(kRound)};

MS_DEVICE uint32_t Advanced(const Advance& by, uint32_t state) {
  return by.row[0][state & 255] ^ by.row[1][state >> 8 & 255] ^ by.row[2][state >> 16 & 255] ^ by.row[3][state >> 24];
}

// All lanes have the result. `bytes` is aligned to words.
__device__ uint32_t Checksum(const Tables& tables, const uint8_t* bytes, int64_t length) {
  const auto* words = reinterpret_cast<const uint32_t*>(bytes);
  const int64_t count = length / 4, whole = length / kRound * kWarp;
  // The first word, or what there is of one, is met by a state of ones.
  uint32_t mine = 0;
#pragma unroll 4
  for (int64_t at = Lane(); at < whole; at += kWarp) {
    mine = Advanced(tables.by_round, mine) ^ words[at];
    if (at == 0) mine = ~mine;
  }
  uint32_t state = whole == 0 ? ~0u : 0;
  if (whole > 0) {
    for (int lane = 0; lane < kWarp; ++lane) {
      state = Advanced(tables.by_word, state ^ __shfl_sync(kWholeWarp, mine, lane));
    }
  }
  for (int64_t at = whole; at < count; ++at) state = Advanced(tables.by_word, state ^ words[at]);
  for (int64_t at = 4 * count; at < length; ++at) state = AfterByte(state ^ bytes[at]);
  return ~state;
}

__global__ void __launch_bounds__(kChunksOfBlock* kWarp)
    CheckChunks(ms_mask_chunk* chunks, int64_t chunk_count, const Tables* tables) {
  auto* shared = static_cast<uint32_t*>(SharedMemory());
  const auto* from = reinterpret_cast<const uint32_t*>(tables);
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(sizeof(Tables) / 4); i += kChunksOfBlock * kWarp) {
    shared[i] = from[i];
  }
  __syncthreads();
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kChunksOfBlock + WarpOfBlock();
  if (c >= chunk_count) return;
  const uint32_t found = Checksum(*reinterpret_cast<const Tables*>(shared), chunks[c].bytes, chunks[c].length);
  if (Lane() == 0) chunks[c].status = found == chunks[c].checksum ? MS_CHUNK_OK : MS_CHUNK_CHECKSUM;
}

}  // namespace

const void* checksum_tables() {
  return &tables_of_host;
}

void check_chunks(ms_mask_chunk* chunks, int64_t chunk_count, const void* tables, cudaStream_t stream) {
  Launch(CheckChunks, Blocks(chunk_count, kChunksOfBlock), kChunksOfBlock * kWarp, sizeof(Tables), stream, chunks,
         chunk_count, static_cast<const Tables*>(tables));
}

}  // namespace cuda
}  // namespace maskserve
