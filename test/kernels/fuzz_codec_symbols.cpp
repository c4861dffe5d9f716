// Chunks of symbols: decode_masks and decode_compressed. Chunks that were not touched decode as before, steps outside
// the chunks are not written to, and a compacted matrix holds what the mask keeps.

#include <sys/mman.h>
#include <unistd.h>

#include "fuzz_codec_harness.h"

namespace {

constexpr uint8_t kUntouched = 0xa5;

struct Item {
  Entry entry;
  std::vector<Bytes> chunks;
  std::vector<Exact<uint8_t>> masks, packed;  // rooms to decode to
};

// The chunks one behind the other in a file.
struct ChunkFile {
  std::vector<int64_t> offsets;
  ms_chunk_file view;

  explicit ChunkFile(const std::vector<ms_mask_chunk>& chunks) : view{memfd_create("chunks", 0), nullptr} {
    int64_t at = 0;
    for (const ms_mask_chunk& chunk : chunks) {
      const auto length = static_cast<size_t>(chunk.length);
      Require(pwrite(view.descriptor, chunk.bytes, length, at) == chunk.length, "no file to be had");
      offsets.push_back(at);
      at += chunk.length;
    }
    view.offsets = offsets.data();
  }
  ~ChunkFile() { close(view.descriptor); }
};

int64_t AllSteps(const Entry& entry) {
  const ms_mask_tensor& last = entry.tensors.back()->view;
  return last.first_step + StepsOf(last);
}

// Several chunks of one set, of one lane or 32.
int64_t ChunkSteps(Random& random, int64_t steps) {
  if (steps > 128 && random.OneIn(3)) return 128 + random.Below(steps - 128);
  return steps < 128 && random.OneIn(2) ? 1 + random.Below(steps) : steps;
}

class SymbolTarget : public Target {
 public:
  SymbolTarget(Random& random, uint32_t coder, bool compressed) : compressed_(compressed) {
    for (int64_t i = 0; i < kCorpus; ++i) corpus_.push_back(MakeItem(random, coder, i));
    for (int64_t i = 0; i < kCorpus; ++i) tables_.push_back(RandomTables(random, coder, views_[0].contexts));
  }

  int32_t Run(Random& random) override {
    Item& item = corpus_[AnyEntry(random)];
    Choose(random, item);
    const Outcome outcome = Decode(AnyIsa(random));
    const int32_t status = outcome.statuses[static_cast<size_t>(mutated_ - first_)];
    Require(status == MS_CHUNK_OK || status == MS_CHUNK_OVERRUN, "a status that symbols don't have");
    if (!retabled_) {
      for (size_t c = 0; c < outcome.statuses.size(); ++c) {
        Require(first_ + static_cast<int64_t>(c) == mutated_ || outcome.statuses[c] == MS_CHUNK_OK,
                "a chunk that is as it was is refused");
      }
    }
    if (status == MS_CHUNK_OK) RequireSameAgain();
    if (random.OneIn(4)) {
      for (const Isa& isa : isas) Require(Decode(isa) == outcome, isa.name);
    }
    return status;
  }

 private:
  struct Outcome {
    std::vector<int32_t> statuses;
    Bytes masks;
    bool operator==(const Outcome& other) const { return statuses == other.statuses && masks == other.masks; }
  };

  Item MakeItem(Random& random, uint32_t coder, int64_t number) {
    // Compacting goes by 256 steps at most.
    const int64_t least = number % kLargeEvery != 0 ? 1 : compressed_ && number == 0 ? 300 : 128;
    Item item{RandomEntry(random, coder, {least, compressed_ ? 16 : 1}), {}, {}, {}};
    FitTables(item.entry, random.OneIn(2));
    item.entry.chunk_steps = ChunkSteps(random, AllSteps(item.entry));
    item_ = &item;
    views_ = item.entry.Views();
    for (const ms_mask_tensor& view : views_) {
      item.masks.emplace_back(static_cast<size_t>((view.groups + 1) / 2));
      if (compressed_) item.packed.emplace_back(static_cast<size_t>(view.groups / 2 * 9), random.OneIn(2));
    }
    const int64_t steps = item.entry.chunk_steps;
    for (int64_t c = 0; c * steps < AllSteps(item.entry); ++c) {
      item.chunks.emplace_back();
      Require(Encode(c, &item.chunks.back()), "the corpus does not encode");
    }
    return item;
  }

  // Views, chunks and tables of the next input.
  void Choose(Random& random, Item& item) {
    item_ = &item;
    views_ = item.entry.Views();
    retabled_ = random.OneIn(6);
    if (retabled_) {
      const std::vector<uint16_t>& tables = tables_[static_cast<size_t>(random.Below(kCorpus))];
      for (ms_mask_tensor& view : views_) view.starts = tables.data();
    }
    const int64_t count = static_cast<int64_t>(item.chunks.size());
    mutated_ = random.Below(count);
    first_ = random.Below(mutated_ + 1);
    const Bytes mutant = Mutant(random);
    bytes_.clear();
    chunks_.clear();
    for (int64_t c = first_; c <= mutated_ + random.Below(count - mutated_); ++c) {
      bytes_.emplace_back(c == mutated_ ? mutant : item.chunks[static_cast<size_t>(c)]);
      chunks_.push_back(ChunkOf(bytes_.back()));
    }
  }

  Bytes Mutant(Random& random) {
    const Bytes& own = item_->chunks[static_cast<size_t>(mutated_)];
    const int64_t kind = random.Below(8);
    if (kind == 0) {
      const Item& other = corpus_[AnyEntry(random)];
      return other.chunks[static_cast<size_t>(random.Below(static_cast<int64_t>(other.chunks.size())))];
    }
    if (kind > 3) return Damaged(random, own);
    Bytes recoded;
    EditMasks(random);
    if (!Encode(mutated_, &recoded)) return Damaged(random, own);
    return kind == 1 ? Damaged(random, recoded) : recoded;
  }

  // Other masks in the views, near the item's.
  void EditMasks(Random& random) {
    for (size_t t = 0; t < views_.size(); ++t) {
      const Bytes& mask = item_->entry.tensors[t]->mask;
      std::memcpy(item_->masks[t].data(), mask.data(), mask.size());
      views_[t].mask = item_->masks[t].data();
    }
    for (int64_t edits = 1 + random.Below(8); edits > 0; --edits) {
      const ms_mask_tensor& view = views_[static_cast<size_t>(random.Below(static_cast<int64_t>(views_.size())))];
      SetNibble(view.mask, random.Below(view.groups), kNibbles[random.Below(6)]);
    }
  }

  // Chunk `number` of the views' masks; false where a symbol has no frequency.
  bool Encode(int64_t number, Bytes* out) const {
    const int64_t steps = item_->entry.chunk_steps;
    out->resize(static_cast<size_t>(128 + 64 * steps));
    ms_mask_output output{out->data(), static_cast<int64_t>(out->size()), 0, 0, -1};
    isas.back().codec->encode_masks(context, views_.data(), static_cast<int64_t>(views_.size()), steps, number * steps,
                                    &output, 1);
    out->resize(static_cast<size_t>(output.length));
    return output.status == MS_CHUNK_OK;
  }

  // A sequence of symbols has one chunk: the masks that were decoded last.
  void RequireSameAgain() {
    Bytes again;
    Require(Encode(mutated_, &again), "what was decoded does not encode");
    const Exact<uint8_t>& bytes = bytes_[static_cast<size_t>(mutated_ - first_)];
    Require(again.size() == bytes.size() && std::memcmp(again.data(), bytes.data(), again.size()) == 0,
            "accepted bytes encode to others");
  }

  // The status of a step of all tensors', MS_CHUNK_CHECKSUM where none of the chunks holds it.
  int32_t StatusOf(int64_t step) const {
    const int64_t chunk = step / item_->entry.chunk_steps - first_;
    const bool within = step >= first_ * item_->entry.chunk_steps && chunk < static_cast<int64_t>(chunks_.size());
    return within ? chunks_[static_cast<size_t>(chunk)].status : MS_CHUNK_CHECKSUM;
  }

  Outcome Decode(const Isa& isa) {
    for (size_t t = 0; t < views_.size(); ++t) {
      item_->masks[t].Fill(kUntouched);
      views_[t].mask = item_->masks[t].data();
    }
    Reset();
    isa.codec->decode_masks(context, views_.data(), static_cast<int64_t>(views_.size()), item_->entry.chunk_steps,
                            first_ * item_->entry.chunk_steps, chunks_.data(), static_cast<int64_t>(chunks_.size()));
    Outcome outcome;
    for (const ms_mask_chunk& chunk : chunks_) outcome.statuses.push_back(chunk.status);
    for (size_t t = 0; t < views_.size(); ++t) AppendMask(views_[t], item_->masks[t], &outcome.masks);
    if (compressed_) {
      RequireCompressed(isa, outcome, nullptr);
      const ChunkFile file(chunks_);
      RequireCompressed(isa, outcome, &file.view);
    }
    return outcome;
  }

  void Reset() {
    for (ms_mask_chunk& chunk : chunks_) chunk.status = -1;
  }

  // A step is 16 bytes. What a refused chunk has left is undefined.
  void AppendMask(const ms_mask_tensor& view, const Exact<uint8_t>& mask, Bytes* to) const {
    const size_t start = to->size();
    to->insert(to->end(), mask.data(), mask.data() + mask.size());
    for (int64_t step = 0; step < StepsOf(view); ++step) {
      const size_t begin = static_cast<size_t>(16 * step), end = std::min(mask.size(), begin + 16);
      const int32_t status = StatusOf(view.first_step + step);
      for (size_t i = start + begin; i < start + end && status != MS_CHUNK_OK; ++i) {
        Require(status == MS_CHUNK_OVERRUN || (*to)[i] == kUntouched, "a step outside the chunks is written");
        (*to)[i] = 0;
      }
    }
  }

  void RequireCompressed(const Isa& isa, const Outcome& masks, const ms_chunk_file* file) {
    for (size_t t = 0; t < views_.size(); ++t) {
      item_->packed[t].Fill(kUntouched);
      views_[t].packed = item_->packed[t].data();
    }
    Reset();
    double share = -1;
    isa.codec->decode_compressed(context, views_.data(), static_cast<int64_t>(views_.size()), item_->entry.chunk_steps,
                                 first_ * item_->entry.chunk_steps, chunks_.data(),
                                 static_cast<int64_t>(chunks_.size()), file, &share);
    Require(share >= 0 && share <= 1, "a share that is none");
    for (size_t c = 0; c < chunks_.size(); ++c) {
      Require(chunks_[c].status == masks.statuses[c], "masks and compacted matrices are refused apart");
    }
    const uint8_t* mask = masks.masks.data();
    for (size_t t = 0; t < views_.size(); mask += item_->masks[t].size(), ++t) {
      RequireMatrix(views_[t], mask, item_->packed[t].data());
    }
  }

  void RequireMatrix(const ms_mask_tensor& view, const uint8_t* mask, uint8_t* packed) const {
    const int64_t k = view.cols, n = 4 * view.groups / k;
    for (int64_t block = 0; block < n * k / 64; ++block) {
      const PackedBlock at = BlockAt(packed, n, k, block);
      const int32_t status = StatusOf(view.first_step + block / 2);
      if (status == MS_CHUNK_OK) {
        Require(std::memcmp(at.meta, mask + 8 * block, 8) == 0, "compacted nibbles are not the mask's");
        Require(HoldsKept(at, view.weights + 64 * block), "compacted values are not what the mask keeps");
      } else if (status == MS_CHUNK_CHECKSUM) {
        for (int64_t i = 0; i < 72; ++i) {
          Require((i < 8 ? at.meta[i] : at.values[i - 8]) == kUntouched, "a block outside the chunks is written");
        }
      }
    }
  }

  static bool HoldsKept(const PackedBlock& at, const uint16_t* weights) {
    for (int64_t v = 0; v < 32; ++v) {
      const unsigned nibble = at.meta[v / 4] >> (v / 2 % 2 * 4) & 15;
      const uint16_t kept = weights[v / 2 * 4 + (v % 2 == 0 ? nibble & 3 : nibble >> 2)];
      if (std::memcmp(at.values + 2 * WordOf(v), &kept, 2) != 0) return false;
    }
    return true;
  }

  const bool compressed_;
  std::vector<Item> corpus_;
  std::vector<std::vector<uint16_t>> tables_;  // that no chunk was made with
  // Of the input that is being run.
  Item* item_ = nullptr;
  std::vector<ms_mask_tensor> views_;
  bool retabled_ = false;
  int64_t first_ = 0, mutated_ = 0;
  std::vector<Exact<uint8_t>> bytes_;
  std::vector<ms_mask_chunk> chunks_;
};

}  // namespace

std::unique_ptr<Target> MakeSymbolTarget(Random& random, uint32_t coder, bool compressed) {
  return std::make_unique<SymbolTarget>(random, coder, compressed);
}
