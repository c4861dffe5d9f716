// Chunks that one state decodes: scales and `uniform-ac`, each with an encoder written from FORMAT.md.

#include "fuzz_codec_harness.h"

namespace {

// FORMAT.md §8.1: the only sequence of words for these symbols. Empty where one has no frequency.
Bytes EncodeScales(const std::vector<int16_t>& scales, const std::vector<uint16_t>& starts) {
  uint32_t state = 1u << 16;
  std::vector<uint16_t> words;
  for (size_t i = scales.size(); i-- > 0;) {
    const size_t symbol = static_cast<size_t>(scales[i] / 16 + 32);
    const uint32_t start = starts[symbol], frequency = starts[symbol + 1] - start;
    if (frequency == 0) return {};
    if (state >= uint64_t{frequency} << 18) {
      words.push_back(static_cast<uint16_t>(state));
      state >>= 16;
    }
    state = (state / frequency << 14) + start + state % frequency;
  }
  std::reverse(words.begin(), words.end());
  Bytes bytes(4 + 2 * words.size());
  std::memcpy(bytes.data(), &state, 4);
  if (!words.empty()) std::memcpy(bytes.data() + 4, words.data(), 2 * words.size());
  return bytes;
}

class ScalesTarget : public Target {
 public:
  explicit ScalesTarget(Random& random) {
    for (int64_t i = 0; i < kCorpus; ++i) {
      Item item{RandomWideTable(random), {}, {}};
      item.scales = Invent(random, item.table, static_cast<size_t>(1 + random.Below(i % 8 == 0 ? 400 : 60)));
      item.chunk = EncodeScales(item.scales, item.table);
      Require(!item.chunk.empty(), "the corpus does not encode");
      corpus_.push_back(std::move(item));
    }
  }

  int32_t Run(Random& random) override {
    const Item& item = corpus_[static_cast<size_t>(random.Below(kCorpus))];
    const std::vector<uint16_t> table = random.OneIn(6) ? RandomWideTable(random) : item.table;
    const size_t count = item.scales.size();
    Bytes mutant = random.OneIn(16) ? corpus_[static_cast<size_t>(random.Below(kCorpus))].chunk : item.chunk;
    if (random.OneIn(3)) mutant = EncodeScales(Invent(random, table, count), table);
    if (!random.OneIn(6)) mutant = Damaged(random, mutant);
    const Exact<uint8_t> bytes(mutant);
    const Outcome outcome = Decode(AnyIsa(random), bytes, table, count);
    Require(outcome.status == MS_CHUNK_OK || outcome.status == MS_CHUNK_OVERRUN, "a status that scales don't have");
    if (outcome.status == MS_CHUNK_OK) {
      Require(EncodeScales(outcome.scales, table) == mutant, "accepted bytes encode to others");
    }
    if (random.OneIn(4)) {
      for (const Isa& isa : isas) Require(Decode(isa, bytes, table, count) == outcome, isa.name);
    }
    return outcome.status;
  }

 private:
  struct Item {
    std::vector<uint16_t> table;
    std::vector<int16_t> scales;
    Bytes chunk;
  };
  struct Outcome {
    int32_t status;
    std::vector<int16_t> scales;
    bool operator==(const Outcome& other) const { return status == other.status && scales == other.scales; }
  };

  // Scales that the table has.
  static std::vector<int16_t> Invent(Random& random, const std::vector<uint16_t>& table, size_t count) {
    std::vector<int16_t> scales(count);
    for (int16_t& scale : scales) {
      const int64_t slot = random.Below(1 << 14);
      const int64_t symbol = std::upper_bound(table.begin(), table.end(), slot) - table.begin() - 1;
      scale = static_cast<int16_t>(16 * (symbol - 32));
    }
    return scales;
  }

  static Outcome Decode(const Isa& isa, const Exact<uint8_t>& bytes, const std::vector<uint16_t>& table, size_t count) {
    const Exact<int16_t> scales(count);
    ms_mask_chunk chunk = ChunkOf(bytes);
    isa.codec->decode_scales(context, &chunk, table.data(), scales.data(), static_cast<int64_t>(count));
    if (chunk.status != MS_CHUNK_OK) return {chunk.status, {}};
    return {chunk.status, std::vector<int16_t>(scales.data(), scales.data() + count)};
  }

  std::vector<Item> corpus_;
};

// FORMAT.md §8.4, bit by bit: groups [first, first + groups) of a mask.
Bytes EncodeUniformAc(const uint8_t* mask, int64_t first, int64_t groups) {
  uint64_t low = 0, high = (1ull << 31) - 1, pending = 0;
  std::vector<bool> bits;
  const auto write = [&](bool bit) {
    bits.push_back(bit);
    for (; pending > 0; --pending) bits.push_back(!bit);
  };
  for (int64_t i = first; i < first + groups; ++i) {
    const unsigned nibble = mask[i / 2] >> 4 * (i % 2) & 15;
    uint64_t symbol = 0;
    while (kNibbles[symbol] != nibble) ++symbol;
    const uint64_t range = high - low + 1;
    high = low + range * (symbol + 1) / 6 - 1;
    low += range * symbol / 6;
    for (; (low >> 30 & 1) == (high >> 30 & 1); low = low << 1 & 0x7fffffff, high = (high << 1 & 0x7fffffff) | 1) {
      write((low >> 30 & 1) != 0);
    }
    for (; (low >> 29 & 1) == 1 && (high >> 29 & 1) == 0; ++pending) {
      low = 2 * low - (1ull << 30);
      high = 2 * high - (1ull << 30) + 1;
    }
  }
  pending = 0;
  write(true);
  const int64_t least = std::max<int64_t>(1, groups * 2584 / 8000 - 8);
  Bytes bytes(std::max((bits.size() + 7) / 8, static_cast<size_t>(least)));
  for (size_t i = 0; i < bits.size(); ++i) bytes[i / 8] = static_cast<uint8_t>(bytes[i / 8] | bits[i] << (7 - i % 8));
  return bytes;
}

class UniformAcTarget : public Target {
 public:
  explicit UniformAcTarget(Random& random) {
    for (int64_t i = 0; i < kCorpus; ++i) {
      Item item{RandomEntry(random, MS_CODER_UNIFORM_AC, {1, 1}), 0, {}};
      item.entry.tensors.resize(1);
      const Tensor& tensor = *item.entry.tensors[0];
      const int64_t groups = tensor.view.groups;
      item.chunk_groups = random.OneIn(2) ? 2 * groups : 2 * (1 + random.Below(groups));
      for (int64_t first = 0; first < groups; first += item.chunk_groups) {
        item.chunks.push_back(EncodeUniformAc(tensor.mask.data(), first, std::min(item.chunk_groups, groups - first)));
      }
      corpus_.push_back(std::move(item));
    }
  }

  int32_t Run(Random& random) override {
    const Item& item = corpus_[static_cast<size_t>(random.Below(kCorpus))];
    const int64_t mutated = random.Below(static_cast<int64_t>(item.chunks.size()));
    std::vector<Exact<uint8_t>> bytes;
    std::vector<ms_mask_chunk> chunks;
    for (size_t c = 0; c < item.chunks.size(); ++c) {
      bytes.emplace_back(static_cast<int64_t>(c) == mutated ? Mutant(random, item, mutated) : item.chunks[c]);
      chunks.push_back(ChunkOf(bytes.back()));
    }
    const Outcome outcome = Decode(AnyIsa(random), item, chunks);
    const int32_t status = outcome.statuses[static_cast<size_t>(mutated)];
    Require(status == MS_CHUNK_OK || status == MS_CHUNK_OVERRUN, "a status that symbols don't have");
    for (size_t c = 0; c < chunks.size(); ++c) {
      Require(static_cast<int64_t>(c) == mutated || outcome.statuses[c] == MS_CHUNK_OK,
              "a chunk that is as it was is refused");
      if (outcome.statuses[c] == MS_CHUNK_OK) RequireSameAgain(item, static_cast<int64_t>(c), outcome.mask, bytes[c]);
    }
    if (random.OneIn(4)) {
      for (const Isa& isa : isas) Require(Decode(isa, item, chunks) == outcome, isa.name);
    }
    return status;
  }

 private:
  struct Item {
    Entry entry;
    int64_t chunk_groups;
    std::vector<Bytes> chunks;
  };
  struct Outcome {
    std::vector<int32_t> statuses;
    Bytes mask;
    bool operator==(const Outcome& other) const { return statuses == other.statuses && mask == other.mask; }
  };

  static int64_t GroupsOf(const Item& item, int64_t chunk) {
    return std::min(item.chunk_groups, item.entry.tensors[0]->view.groups - chunk * item.chunk_groups);
  }

  Bytes Mutant(Random& random, const Item& item, int64_t number) const {
    const Bytes& own = item.chunks[static_cast<size_t>(number)];
    const int64_t kind = random.Below(8);
    if (kind == 0) return corpus_[static_cast<size_t>(random.Below(kCorpus))].chunks[0];
    if (kind > 2) return Damaged(random, own);
    const int64_t groups = GroupsOf(item, number);
    Bytes mask(static_cast<size_t>((groups + 1) / 2));
    for (int64_t group = 0; group < groups; ++group) SetNibble(mask, group, kNibbles[random.Below(6)]);
    const Bytes recoded = EncodeUniformAc(mask.data(), 0, groups);
    return kind == 1 ? Damaged(random, recoded) : recoded;
  }

  static void RequireSameAgain(const Item& item, int64_t number, const Bytes& mask, const Exact<uint8_t>& bytes) {
    const Bytes again = EncodeUniformAc(mask.data(), number * item.chunk_groups, GroupsOf(item, number));
    Require(again.size() == bytes.size() && std::memcmp(again.data(), bytes.data(), again.size()) == 0,
            "accepted bytes encode to others");
  }

  // Of the mask, chunks that were refused count as zeros.
  static Outcome Decode(const Isa& isa, const Item& item, std::vector<ms_mask_chunk> chunks) {
    ms_mask_tensor view = item.entry.Views()[0];
    const Exact<uint8_t> mask(static_cast<size_t>((view.groups + 1) / 2));
    view.mask = mask.data();
    const int64_t count = static_cast<int64_t>(chunks.size());
    isa.codec->decode_uniform_ac(context, &view, item.chunk_groups, chunks.data(), count);
    Outcome outcome{{}, Bytes(mask.data(), mask.data() + mask.size())};
    for (int64_t c = 0; c < count; ++c) {
      outcome.statuses.push_back(chunks[static_cast<size_t>(c)].status);
      if (outcome.statuses.back() == MS_CHUNK_OK) continue;
      const int64_t begin = c * item.chunk_groups / 2, bytes = (GroupsOf(item, c) + 1) / 2;
      std::fill_n(outcome.mask.begin() + begin, bytes, uint8_t{0});
    }
    return outcome;
  }

  std::vector<Item> corpus_;
};

}  // namespace

std::unique_ptr<Target> MakeScalesTarget(Random& random) {
  return std::make_unique<ScalesTarget>(random);
}

std::unique_ptr<Target> MakeUniformAcTarget(Random& random) {
  return std::make_unique<UniformAcTarget>(random);
}
