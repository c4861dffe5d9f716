// The 16-bit words of a chunk, whatever its bytes: beyond the end there are zeros, and the chunk is then known to
// overrun.
#pragma once

#include "simd.h"

namespace maskserve {
namespace {

// What may be read at `at` after Ready().
constexpr int kReadyBytes = 64;

class Words {
 public:
  MS_METHOD Words(const uint8_t* bytes, int64_t length) : at(bytes), end_(bytes + length) {}

  MS_METHOD void Ready() {
    if (end_ - at < least_) Refill();
  }
  // Every word was read, and none that is not there.
  MS_METHOD bool AtEnd() const { return !overrun_ && at == end_; }
  MS_METHOD bool Overrun() const { return overrun_; }

  const uint8_t* at;

 private:
  // The last words are read from a copy that is followed by zeros.
  void __attribute__((noinline)) Refill() {
    if (least_ == 0) {
      overrun_ = true;
      at = end_;
      return;
    }
    const int64_t left = end_ - at;
    memcpy(tail_, at, static_cast<size_t>(left));
    memset(tail_ + left, 0, sizeof(tail_) - static_cast<size_t>(left));
    at = tail_;
    end_ = tail_ + left;
    least_ = 0;
  }

  const uint8_t* end_;
  int64_t least_ = kReadyBytes;
  bool overrun_ = false;
  uint8_t tail_[2 * kReadyBytes];
};

}  // namespace
}  // namespace maskserve
