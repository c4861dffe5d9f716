// The encoders: masks with codes that are no patterns, lists of changes that do not ascend, tables without some
// symbols, and rooms of any size. What is encoded decodes to itself; the rest is refused.

#include "fuzz_codec_harness.h"

namespace {

class EncodeTarget : public Target {
 public:
  explicit EncodeTarget(Random& random) {
    const uint32_t coders = MS_CODER_PATCH_WEIGHTS - MS_CODER_UNIFORM + 1;
    for (int64_t i = 0; i < kCorpus; ++i) {
      // Large ones of each coder of symbols.
      const uint32_t coder = MS_CODER_UNIFORM + static_cast<uint32_t>(i + i / kLargeEvery) % coders;
      corpus_.push_back(RandomEntry(random, coder, {i % kLargeEvery == 0 ? 128 : 1, 1}));
      FitTables(corpus_.back(), random.OneIn(2));
      corpus_.back().gaps = RandomWideTable(random);
    }
  }

  int32_t Run(Random& random) override {
    Choose(random);
    const Outcome outcome = Encode(AnyIsa(random));
    Require(outcome.status == MS_CHUNK_OK || outcome.status == MS_CHUNK_BAD_SYMBOL,
            "a status that encoders don't have");
    if (outcome.status == MS_CHUNK_OK) {
      Require(!bad_, "what is no mask is encoded");
      RequireDecodes(random, outcome.bytes);
    }
    if (random.OneIn(4)) {
      for (const Isa& isa : isas) Require(Encode(isa) == outcome, isa.name);
    }
    return outcome.status == MS_CHUNK_OK ? MS_CHUNK_OK : MS_CHUNK_OVERRUN;
  }

 private:
  struct Outcome {
    int32_t status;
    Bytes bytes;
    bool operator==(const Outcome& other) const { return status == other.status && bytes == other.bytes; }
  };

  void Choose(Random& random) {
    entry_ = &corpus_[AnyEntry(random)];
    views_ = entry_->Views();
    bad_ = false;
    if (random.OneIn(4)) {
      tables_ = RandomTables(random, views_[0].coder, views_[0].contexts);
      for (ms_mask_tensor& view : views_) view.starts = tables_.data();
    }
    gaps_ = random.OneIn(4) ? RandomWideTable(random) : entry_->gaps;
    room_ = 128 + 64 * entry_->chunk_steps;
    if (IsPatch(views_[0].coder)) {
      room_ = 32;
      for (const ms_mask_tensor& view : views_) room_ += 10 * view.changes;
    }
    if (random.OneIn(8)) room_ = random.Below(room_);
    bytes_.clear();
    positions_.clear();
    const size_t edited = static_cast<size_t>(random.Below(static_cast<int64_t>(views_.size())));
    if (IsPatch(views_[0].coder))
      EditChanges(random, views_[edited]);
    else
      EditMask(random, entry_->tensors[edited]->mask, views_[edited]);
  }

  // A pattern, as a rule.
  static uint8_t AnyNibble(Random& random) {
    return random.OneIn(12) ? static_cast<uint8_t>(random.Below(16)) : kNibbles[random.Below(6)];
  }

  void EditMask(Random& random, const Bytes& mask, ms_mask_tensor& view) {
    bytes_.emplace_back(mask);
    view.mask = bytes_.back().data();
    for (int64_t edits = random.Below(6); edits > 0; --edits) {
      SetNibble(view.mask, random.Below(view.groups), AnyNibble(random));
    }
    for (int64_t group = 0; group < view.groups; ++group) bad_ |= !IsPattern(NibbleAt(view.mask, group));
  }

  void EditChanges(Random& random, ms_mask_tensor& view) {
    const size_t count = static_cast<size_t>(view.changes);
    positions_.emplace_back(std::vector<uint32_t>(view.positions, view.positions + count));
    bytes_.emplace_back(Bytes(view.codes, view.codes + count));
    view.positions = positions_.back().data();
    view.codes = bytes_.back().data();
    for (int64_t edits = random.Below(4); edits > 0; --edits) {
      const int64_t at = random.Below(view.changes);
      if (random.OneIn(2)) view.codes[at] = AnyNibble(random);
      if (random.OneIn(3))
        view.positions[at] = static_cast<uint32_t>(random.OneIn(3) ? random.Next() : random.Below(view.groups));
    }
    for (size_t i = 0; i < count; ++i) {
      bad_ |= view.positions[i] >= view.groups || (i > 0 && view.positions[i] <= view.positions[i - 1]);
      bad_ |= !IsPattern(view.codes[i]);
    }
  }

  Outcome Encode(const Isa& isa) const {
    const Exact<uint8_t> room(static_cast<size_t>(room_));
    ms_mask_output output{room.data(), room_, -1, 0, -1};
    const int64_t count = static_cast<int64_t>(views_.size()), first[] = {0, count};
    if (IsPatch(views_[0].coder))
      isa.codec->encode_patches(context, views_.data(), first, gaps_.data(), &output, 1);
    else
      isa.codec->encode_masks(context, views_.data(), count, entry_->chunk_steps, 0, &output, 1);
    if (output.status != MS_CHUNK_OK) return {output.status, {}};
    Require(output.length >= 4 && output.length <= room_, "a chunk longer than its room");
    const Bytes bytes(room.data(), room.data() + output.length);
    Require(isa.codec->crc32c(bytes.data(), output.length) == output.checksum, "a checksum that is not the chunk's");
    return {output.status, bytes};
  }

  void RequireDecodes(Random& random, const Bytes& chunk_bytes) const {
    std::vector<ms_mask_tensor> views = views_;
    const Exact<uint8_t> bytes(chunk_bytes);
    ms_mask_chunk chunk = ChunkOf(bytes);
    std::vector<Exact<uint8_t>> codes;
    std::vector<Exact<uint32_t>> positions;
    const bool patch = IsPatch(views[0].coder);
    for (ms_mask_tensor& view : views) {
      codes.emplace_back(static_cast<size_t>(patch ? view.changes : (view.groups + 1) / 2));
      positions.emplace_back(static_cast<size_t>(patch ? view.changes : 0));
      view.mask = view.codes = codes.back().data();
      view.positions = positions.back().data();
    }
    const int64_t count = static_cast<int64_t>(views.size()), first[] = {0, count};
    const ms_codec_ops& codec = *AnyIsa(random).codec;
    if (patch)
      codec.decode_patches(context, views.data(), first, gaps_.data(), &chunk, 1);
    else
      codec.decode_masks(context, views.data(), count, entry_->chunk_steps, 0, &chunk, 1);
    Require(chunk.status == MS_CHUNK_OK, "what was encoded is refused");
    for (size_t t = 0; t < views.size(); ++t) {
      const uint8_t* source = patch ? views_[t].codes : views_[t].mask;
      Require(std::memcmp(codes[t].data(), source, codes[t].size()) == 0, "what was encoded decodes to something else");
      Require(std::memcmp(positions[t].data(), views_[t].positions, 4 * positions[t].size()) == 0,
              "other groups are changed than were encoded");
    }
  }

  std::vector<Entry> corpus_;
  // Of the input that is being run.
  const Entry* entry_ = nullptr;
  std::vector<ms_mask_tensor> views_;
  std::vector<uint16_t> tables_, gaps_;
  std::vector<Exact<uint8_t>> bytes_;
  std::vector<Exact<uint32_t>> positions_;
  int64_t room_ = 0;
  bool bad_ = false;
};

}  // namespace

std::unique_ptr<Target> MakeEncodeTarget(Random& random) {
  return std::make_unique<EncodeTarget>(random);
}
