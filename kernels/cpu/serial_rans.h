// One lane of rANS with tables of 64 symbols and raw bits (FORMAT.md §8.1): positions of patches, scales.
#pragma once

#include "rans24.h"
#include "words.h"

namespace maskserve {
namespace {

constexpr int kWideSymbols = 64;

// The symbol of each slot.
struct WideTable {
  uint16_t start[kWideSymbols + 1];
  uint8_t symbol_of_slot[1 << kProbabilityBits];

  MS_METHOD void Load(const uint16_t* starts) {
    memcpy(start, starts, sizeof(start));
    for (int s = 0; s < kWideSymbols; ++s) {
      memset(symbol_of_slot + start[s], s, static_cast<size_t>(start[s + 1] - start[s]));
    }
  }
};

struct SerialReader {
  uint32_t state = 0;
  Words words;

  // `length` is at least 4.
  MS_METHOD SerialReader(const uint8_t* bytes, int64_t length) : words(bytes, length) {
    memcpy(&state, bytes, 4);
    words.at += 4;
    low_start_ = state < kLeastState;
  }

  MS_METHOD bool Closed() const { return !low_start_ && words.AtEnd() && state == kLeastState; }

  MS_METHOD int Symbol(const Starts& table) {
    words.Ready();
    return DecodeOne(state, table, words.at);
  }
  MS_METHOD int Wide(const WideTable& table) {
    words.Ready();
    const uint32_t slot = state & ((1u << kProbabilityBits) - 1);
    const int symbol = table.symbol_of_slot[slot];
    const uint32_t start = table.start[symbol], frequency = table.start[symbol + 1] - start;
    state = frequency * (state >> kProbabilityBits) + slot - start;
    Refill();
    return symbol;
  }
  // At most 28.
  MS_METHOD uint32_t Bits(int bits) {
    const uint32_t low = FewBits(bits < kProbabilityBits ? bits : kProbabilityBits);
    return bits <= kProbabilityBits ? low : low | FewBits(bits - kProbabilityBits) << kProbabilityBits;
  }

 private:
  MS_METHOD uint32_t FewBits(int bits) {
    words.Ready();
    const uint32_t value = state & ((1u << bits) - 1);
    state >>= bits;
    Refill();
    return value;
  }
  MS_METHOD void Refill() {
    uint16_t word;
    memcpy(&word, words.at, 2);
    const bool due = state < kLeastState;
    state = due ? state << 16 | word : state;
    words.at += due ? 2 : 0;
  }

  bool low_start_ = false;
};

}  // namespace
}  // namespace maskserve
