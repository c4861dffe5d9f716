#include "buffers.h"

#include <sys/mman.h>

#include <mutex>
#include <new>
#include <vector>

namespace maskserve {

namespace {

constexpr uint64_t kOpen = uint64_t{1} << 32;
constexpr uint64_t kReferences = kOpen - 1;
constexpr int kSlotBits = 24;
// Handles stay below 2⁵³, where JavaScript's numbers are exact.
constexpr uint64_t kGenerations = (uint64_t{1} << (53 - kSlotBits)) - 1;

uint64_t GenerationOf(uint64_t state) {
  return state >> 33;
}

}  // namespace

struct BufferTable::FreeList {
  std::mutex mutex;
  std::vector<uint32_t> slots;
  uint32_t used = 0;
};

BufferTable::BufferTable() : free_(new FreeList) {}

// Leaked on purpose: worker threads may still hold buffers while the process exits.
BufferTable& BufferTable::Get() {
  static BufferTable& table = *new BufferTable;
  return table;
}

uint64_t BufferTable::Allocate(const ms_backend* backend, size_t bytes) {
  uint32_t slot;
  if (!Reserve(&slot)) return 0;
  void* memory = backend->alloc(bytes);
  if (memory == nullptr) {
    GiveBack(slot);
    return 0;
  }
  Slot& s = *Find(slot);
  s.kind = Kind::kOwned;
  s.writable = true;
  s.data = static_cast<char*>(memory);
  s.bytes = bytes;
  s.backend = backend;
  bytes_.fetch_add(static_cast<int64_t>(bytes));
  return Open(slot);
}

uint64_t BufferTable::AdoptMapping(void* mapping, size_t mapping_bytes, size_t offset, size_t bytes) {
  uint32_t slot;
  if (!Reserve(&slot)) return 0;
  Slot& s = *Find(slot);
  s.kind = Kind::kMapped;
  s.writable = false;
  s.data = static_cast<char*>(mapping) + offset;
  s.bytes = bytes;
  s.backend = nullptr;
  s.mapping = mapping;
  s.mapping_bytes = mapping_bytes;
  mapped_bytes_.fetch_add(static_cast<int64_t>(bytes));
  return Open(slot);
}

uint64_t BufferTable::View(const Buffer& base, size_t offset, size_t bytes) {
  uint32_t slot;
  if (!Reserve(&slot)) return 0;
  // A view of a view holds the buffer that has the memory.
  const Slot& of = *Find(base.slot);
  const uint32_t root = of.kind == Kind::kView ? of.base : base.slot;
  Find(root)->state.fetch_add(1, std::memory_order_relaxed);
  Slot& s = *Find(slot);
  s.kind = Kind::kView;
  s.writable = base.writable;
  s.data = base.data + offset;
  s.bytes = bytes;
  s.backend = base.backend;
  s.base = root;
  return Open(slot);
}

bool BufferTable::Pin(uint64_t handle, Buffer* buffer) {
  const uint32_t slot = static_cast<uint32_t>(handle & ((1u << kSlotBits) - 1));
  Slot* s = Find(slot);
  if (s == nullptr) return false;
  uint64_t state = s->state.load(std::memory_order_acquire);
  do {
    if (GenerationOf(state) != handle >> kSlotBits || (state & kOpen) == 0) return false;
  } while (!s->state.compare_exchange_weak(state, state + 1, std::memory_order_acquire));
  *buffer = {s->data, s->bytes, s->writable, slot, s->backend};
  return true;
}

void BufferTable::Unpin(uint32_t slot) {
  const uint64_t before = Find(slot)->state.fetch_sub(1, std::memory_order_acq_rel);
  if ((before & kReferences) == 1) Destroy(slot);
}

bool BufferTable::Free(uint64_t handle) {
  const uint32_t slot = static_cast<uint32_t>(handle & ((1u << kSlotBits) - 1));
  Slot* s = Find(slot);
  if (s == nullptr) return false;
  uint64_t state = s->state.load(std::memory_order_acquire);
  do {
    if (GenerationOf(state) != handle >> kSlotBits || (state & kOpen) == 0) return false;
  } while (!s->state.compare_exchange_weak(state, state & ~kOpen, std::memory_order_acq_rel));
  Unpin(slot);
  return true;
}

BufferUsage BufferTable::Usage() const {
  return {buffers_.load(), bytes_.load(), mapped_bytes_.load()};
}

BufferTable::Slot* BufferTable::Find(uint32_t slot) const {
  Slot* chunk = chunks_[slot / kChunkSlots].load(std::memory_order_acquire);
  return chunk == nullptr ? nullptr : &chunk[slot % kChunkSlots];
}

bool BufferTable::Reserve(uint32_t* slot) {
  std::lock_guard<std::mutex> lock(free_->mutex);
  if (!free_->slots.empty()) {
    *slot = free_->slots.back();
    free_->slots.pop_back();
    return true;
  }
  if (free_->used == kChunks * kChunkSlots) return false;
  if (free_->used % kChunkSlots == 0) {
    Slot* chunk = new (std::nothrow) Slot[kChunkSlots];
    if (chunk == nullptr) return false;
    chunks_[free_->used / kChunkSlots].store(chunk, std::memory_order_release);
  }
  *slot = free_->used++;
  return true;
}

void BufferTable::GiveBack(uint32_t slot) {
  std::lock_guard<std::mutex> lock(free_->mutex);
  free_->slots.push_back(slot);
}

// One reference, the handle's own. The generation wraps after 2²⁹ uses of one slot and is never 0.
uint64_t BufferTable::Open(uint32_t slot) {
  Slot& s = *Find(slot);
  const uint64_t generation = GenerationOf(s.state.load(std::memory_order_relaxed)) % kGenerations + 1;
  s.state.store(generation << 33 | kOpen | 1, std::memory_order_release);
  buffers_.fetch_add(1);
  return generation << kSlotBits | slot;
}

void BufferTable::Destroy(uint32_t slot) {
  Slot& s = *Find(slot);
  const Kind kind = s.kind;
  const uint32_t base = s.base;
  if (kind == Kind::kOwned) {
    s.backend->release(s.data, s.bytes);
    bytes_.fetch_sub(static_cast<int64_t>(s.bytes));
  } else if (kind == Kind::kMapped) {
    if (s.mapping_bytes > 0) munmap(s.mapping, s.mapping_bytes);
    mapped_bytes_.fetch_sub(static_cast<int64_t>(s.bytes));
  }
  s.data = nullptr;
  buffers_.fetch_sub(1);
  GiveBack(slot);
  if (kind == Kind::kView) Unpin(base);
}

}  // namespace maskserve
