// Tables of symbols for the native codec's fuzzer, fitted or of any kind, and compacted matrices by their definition.

#include "fuzz_codec_harness.h"

namespace {

// In the tables of patches the parent's own pattern has no frequency (FORMAT.md §5).
int64_t OwnPattern(uint32_t coder, int64_t table) {
  return coder == MS_CODER_PATCH ? table : coder == MS_CODER_PATCH_WEIGHTS ? table / 10 : -1;
}

// Some symbol occurs.
void AppendTable(uint32_t* counts, int64_t own, std::vector<uint16_t>* tables) {
  if (own >= 0) counts[own] = 0;
  if (std::all_of(counts, counts + 6, [](uint32_t count) { return count == 0; })) counts[own == 0 ? 1 : 0] = 1;
  const std::vector<uint16_t> table = FittedStarts(counts, 6, 8);
  tables->insert(tables->end(), table.begin(), table.end());
}

uint32_t AnyCount(Random& random) {
  return random.OneIn(3) ? 0 : 1u << random.Below(16);
}

}  // namespace

void FitTables(Entry& entry, bool smooth) {
  const uint32_t coder = entry.tensors.front()->view.coder;
  const int64_t contexts = entry.tensors.front()->view.contexts;
  std::vector<uint32_t> counts(static_cast<size_t>(8 * contexts), smooth ? 1 : 0);
  for (ms_mask_tensor view : entry.Views()) {
    int32_t bad = 0;
    if (IsPatch(coder)) view.coder = coder == MS_CODER_PATCH ? MS_CODER_PARENT : MS_CODER_PARENT_WEIGHTS;
    isas.back().codec->count_symbols(context, &view, counts.data(), &bad);
    Require(bad == 0, "the corpus has a mask that is none");
  }
  std::vector<uint16_t> tables;
  for (int64_t c = 0; c < contexts; ++c) AppendTable(counts.data() + 8 * c, OwnPattern(coder, c), &tables);
  for (auto& tensor : entry.tensors) tensor->starts = tables;
}

std::vector<uint16_t> RandomTables(Random& random, uint32_t coder, int64_t contexts) {
  std::vector<uint16_t> tables;
  for (int64_t c = 0; c < contexts; ++c) {
    uint32_t counts[6];
    for (uint32_t& count : counts) count = AnyCount(random);
    AppendTable(counts, OwnPattern(coder, c), &tables);
  }
  return tables;
}

std::vector<uint16_t> RandomWideTable(Random& random) {
  uint32_t counts[64] = {};
  if (random.OneIn(8)) {
    counts[random.OneIn(2) ? 63 : random.Below(64)] = 1;  // one symbol is certain
  } else {
    const bool all = random.OneIn(2);
    for (uint32_t& count : counts) count = all ? static_cast<uint32_t>(1 + random.Below(100)) : AnyCount(random);
    counts[random.Below(64)] += 1;
  }
  return FittedStarts(counts, 64, 65);
}

void PackInto(uint8_t* packed, const uint16_t* weights, const uint8_t* mask, int64_t n, int64_t k) {
  for (int64_t row = 0; row < n; ++row) {
    const int64_t rows = std::min<int64_t>(8, n - row / 8 * 8);
    for (int64_t column = 0; column < k; column += 64) {
      const int64_t columns = std::min<int64_t>(64, k - column);
      uint8_t* tile = packed + row / 8 * 9 * k + column / 64 * rows * 72;
      uint8_t* meta = tile + row % 8 * (columns / 8);
      uint8_t* values = tile + rows * (columns / 8) + row % 8 * columns;
      std::memcpy(meta, mask + (row * k + column) / 8, static_cast<size_t>(columns / 8));
      for (int64_t v = 0; v < columns / 2; ++v) {
        const unsigned nibble = meta[v / 4] >> (v / 2 % 2 * 4) & 15;
        const int64_t at = column + v / 2 * 4 + (v % 2 == 0 ? nibble & 3 : nibble >> 2);
        std::memcpy(values + 2 * (columns == 64 ? WordOf(v) : v), weights + row * k + at, 2);
      }
    }
  }
}
