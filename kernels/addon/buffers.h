// Native buffers, named by numbers that are valid in every thread of the process.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "../include/backend.h"

namespace maskserve {

struct BufferUsage {
  int64_t buffers, bytes, mapped_bytes;
};

// What a pinned buffer is. `data` stays valid until Unpin.
struct Buffer {
  char* data;
  size_t bytes;
  bool writable;
  uint32_t slot;
  const ms_backend* backend;  // whose memory it is; NULL: a mapped file, in host memory
};

// A handle is generation · 2²⁴ + slot. The table is never moved and looked up without a lock; a slot's state (its
// generation, whether its handle is open, its reference count) is one atomic word, so a stale handle is told from a
// live one and a buffer can't vanish under an op of another thread. Freeing closes the handle at once; the memory goes
// when the last op or view ends.
class BufferTable {
 public:
  // The process's table.
  static BufferTable& Get();

  // 0 when memory is short. `memory` of `mapping_bytes` (a mapped file) is unmapped with the buffer.
  uint64_t Allocate(const ms_backend* backend, size_t bytes);
  uint64_t AdoptMapping(void* mapping, size_t mapping_bytes, size_t offset, size_t bytes);
  // The base is pinned by the caller; [offset, offset + bytes) lies inside it. 0 when the table is full.
  uint64_t View(const Buffer& base, size_t offset, size_t bytes);

  // False for a number that names no open buffer.
  bool Pin(uint64_t handle, Buffer* buffer);
  void Unpin(uint32_t slot);
  bool Free(uint64_t handle);

  BufferUsage Usage() const;

 private:
  enum class Kind : uint8_t { kOwned, kMapped, kView };

  // state: generation << 33 | open << 32 | references.
  struct Slot {
    std::atomic<uint64_t> state{0};
    Kind kind = Kind::kOwned;
    bool writable = false;
    char* data = nullptr;
    size_t bytes = 0;
    const ms_backend* backend = nullptr;  // NULL: kMapped, or a view of one
    void* mapping = nullptr;              // kMapped
    size_t mapping_bytes = 0;
    uint32_t base = 0;  // kView: the slot it keeps alive
  };
  static constexpr uint32_t kChunkSlots = 4096, kChunks = 4096;

  Slot* Find(uint32_t slot) const;
  bool Reserve(uint32_t* slot);
  void GiveBack(uint32_t slot);
  uint64_t Open(uint32_t slot);
  void Destroy(uint32_t slot);

  std::atomic<Slot*> chunks_[kChunks] = {};
  std::atomic<int64_t> buffers_{0}, bytes_{0}, mapped_bytes_{0};
  struct FreeList;
  FreeList* free_;

  BufferTable();
};

}  // namespace maskserve
