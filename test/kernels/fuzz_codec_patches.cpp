// Chunks of patches: decode_patches against the parent's nibbles and against its compacted matrix, which must not
// differ; and what is decoded applied to the parent, found again and encoded again.

#include "fuzz_codec_harness.h"

namespace {

struct Item {
  Entry entry;
  std::vector<int64_t> first;  // each chunk's first tensor, and an end
  std::vector<Bytes> chunks;
  std::vector<Exact<uint8_t>> packed;  // parents, where rows are of whole bytes
};

struct Changes {
  Exact<uint32_t> positions;
  Exact<uint8_t> codes;

  explicit Changes(int64_t count) : positions(static_cast<size_t>(count)), codes(static_cast<size_t>(count)) {}
};

class PatchTarget : public Target {
 public:
  PatchTarget(Random& random, uint32_t coder) {
    for (int64_t i = 0; i < kCorpus; ++i) corpus_.push_back(MakeItem(random, coder, i));
    for (int64_t i = 0; i < kCorpus; ++i) tables_.push_back(RandomTables(random, coder, views_[0].contexts));
  }

  int32_t Run(Random& random) override {
    Choose(random, corpus_[static_cast<size_t>(random.Below(kCorpus))]);
    const Isa& isa = AnyIsa(random);
    const bool packed = !item_->packed.empty() && random.OneIn(2);
    const Outcome outcome = Decode(isa, packed);
    const int32_t status = outcome.statuses[static_cast<size_t>(mutated_)];
    Require(status == MS_CHUNK_OK || status == MS_CHUNK_OVERRUN || status == MS_CHUNK_POSITION,
            "a status that patches don't have");
    for (size_t c = 0; c < chunks_.size() && !remodelled_; ++c) {
      Require(static_cast<int64_t>(c) == mutated_ || outcome.statuses[c] == MS_CHUNK_OK,
              "a chunk that is as it was is refused");
    }
    if (status == MS_CHUNK_OK) RequireApplies(isa);
    if (random.OneIn(4)) {
      for (const Isa& other : isas) Require(Decode(other, packed) == outcome, other.name);
      if (packed) Require(Decode(isa, false) == outcome, "the compacted parent gives other changes");
    }
    return status;
  }

 private:
  struct Outcome {
    std::vector<int32_t> statuses;
    Bytes changes;  // of the chunks that are sound
    bool operator==(const Outcome& other) const { return statuses == other.statuses && changes == other.changes; }
  };

  Item MakeItem(Random& random, uint32_t coder, int64_t number) {
    Item item{RandomEntry(random, coder, {number % 8 == 0 ? 6 : 1, number % 2 == 0 ? 2 : 1}), {0}, {}, {}};
    FitTables(item.entry, random.OneIn(2));
    item.entry.gaps = random.OneIn(2) ? RandomWideTable(random) : std::vector<uint16_t>();
    if (item.entry.gaps.empty()) {
      for (uint16_t start = 0; start <= 64; ++start) item.entry.gaps.push_back(static_cast<uint16_t>(256 * start));
    }
    item_ = &item;
    views_ = item.entry.Views();
    gaps_ = item.entry.gaps;
    const int64_t count = static_cast<int64_t>(views_.size());
    for (int64_t t = 1; t < count; ++t) {
      if (random.OneIn(3)) item.first.push_back(t);
    }
    item.first.push_back(count);
    for (size_t c = 0; c + 1 < item.first.size(); ++c) {
      item.chunks.emplace_back();
      if (!Encode(c, &item.chunks.back())) {
        // Gaps that this table does not give: one that gives them all.
        for (size_t s = 0; s <= 64; ++s) gaps_[s] = item.entry.gaps[s] = static_cast<uint16_t>(256 * s);
        item.chunks.clear();
        c = static_cast<size_t>(-1);
      }
    }
    for (const auto& tensor : item.entry.tensors) {
      if (number % 2 == 0) item.packed.push_back(PackedForm(*tensor));
    }
    return item;
  }

  static Exact<uint8_t> PackedForm(const Tensor& tensor) {
    const int64_t k = tensor.view.cols, n = 4 * tensor.view.groups / k;
    Exact<uint8_t> packed(static_cast<size_t>(tensor.view.groups / 2 * 9));
    PackInto(packed.data(), tensor.weights.data(), tensor.parent.data(), n, k);
    return packed;
  }

  void Choose(Random& random, Item& item) {
    item_ = &item;
    views_ = item.entry.Views();
    gaps_ = item.entry.gaps;
    remodelled_ = random.OneIn(4);
    if (remodelled_) Remodel(random);
    mutated_ = random.Below(static_cast<int64_t>(item.chunks.size()));
    const Bytes mutant = Mutant(random);
    bytes_.clear();
    chunks_.clear();
    for (size_t c = 0; c < item.chunks.size(); ++c) {
      bytes_.emplace_back(static_cast<int64_t>(c) == mutated_ ? mutant : item.chunks[c]);
      chunks_.push_back(ChunkOf(bytes_.back()));
    }
  }

  // Other tables, and numbers of changes that the chunks were not made for.
  void Remodel(Random& random) {
    if (random.OneIn(2)) {
      const std::vector<uint16_t>& tables = tables_[static_cast<size_t>(random.Below(kCorpus))];
      for (ms_mask_tensor& view : views_) view.starts = tables.data();
    }
    if (random.OneIn(2)) gaps_ = RandomWideTable(random);
    if (random.OneIn(2)) {
      ms_mask_tensor& view = views_[static_cast<size_t>(random.Below(static_cast<int64_t>(views_.size())))];
      view.changes = 1 + random.Below(view.groups);
    }
  }

  Bytes Mutant(Random& random) {
    const Bytes& own = item_->chunks[static_cast<size_t>(mutated_)];
    const int64_t kind = random.Below(8);
    if (kind == 0) {
      const Item& other = corpus_[static_cast<size_t>(random.Below(kCorpus))];
      return other.chunks[static_cast<size_t>(random.Below(static_cast<int64_t>(other.chunks.size())))];
    }
    if (kind > 3) return Damaged(random, own);
    changes_.clear();
    for (size_t t = 0; t < views_.size(); ++t) {
      changes_.emplace_back(views_[t].changes);
      Invent(random, item_->entry.tensors[t]->parent, views_[t], changes_.back());
      views_[t].positions = changes_.back().positions.data();
      views_[t].codes = changes_.back().codes.data();
    }
    Bytes recoded;
    if (!Encode(static_cast<size_t>(mutated_), &recoded)) return Damaged(random, own);
    return kind == 1 ? Damaged(random, recoded) : recoded;
  }

  // So many changes at random groups, each of them with the same chance.
  static void Invent(Random& random, const Bytes& parent, const ms_mask_tensor& view, Changes& changes) {
    int64_t made = 0;
    for (int64_t group = 0; made < view.changes; ++group) {
      if (random.Below(view.groups - group) >= view.changes - made) continue;
      unsigned nibble = kNibbles[random.Below(6)];
      if (nibble == NibbleAt(parent, group)) nibble = nibble == 4 ? 14 : 4;
      changes.positions.data()[made] = static_cast<uint32_t>(group);
      changes.codes.data()[made++] = static_cast<uint8_t>(nibble);
    }
  }

  bool Encode(size_t number, Bytes* out) const {
    const int64_t* first = item_->first.data() + number;
    size_t room = 32;
    for (int64_t t = first[0]; t < first[1]; ++t)
      room += 10 * static_cast<size_t>(views_[static_cast<size_t>(t)].changes);
    out->resize(room);
    ms_mask_output output{out->data(), static_cast<int64_t>(room), 0, 0, -1};
    isas.back().codec->encode_patches(context, views_.data(), first, gaps_.data(), &output, 1);
    out->resize(static_cast<size_t>(output.length));
    return output.status == MS_CHUNK_OK;
  }

  Outcome Decode(const Isa& isa, bool packed) {
    changes_.clear();
    for (size_t t = 0; t < views_.size(); ++t) {
      ms_mask_tensor& view = views_[t];
      changes_.emplace_back(view.changes);
      changes_.back().codes.Fill(0);
      view.positions = changes_.back().positions.data();
      view.codes = changes_.back().codes.data();
      view.parent = packed ? nullptr : item_->entry.tensors[t]->parent.data();
      view.packed_parent = packed ? item_->packed[t].data() : nullptr;
    }
    for (ms_mask_chunk& chunk : chunks_) chunk.status = -1;
    isa.codec->decode_patches(context, views_.data(), item_->first.data(), gaps_.data(), chunks_.data(),
                              static_cast<int64_t>(chunks_.size()));
    Outcome outcome;
    for (size_t c = 0; c < chunks_.size(); ++c) {
      outcome.statuses.push_back(chunks_[c].status);
      if (chunks_[c].status != MS_CHUNK_OK) continue;
      for (int64_t t = item_->first[c]; t < item_->first[c + 1]; ++t) {
        const Changes& of = changes_[static_cast<size_t>(t)];
        const auto* positions = reinterpret_cast<const uint8_t*>(of.positions.data());
        outcome.changes.insert(outcome.changes.end(), positions, positions + 4 * of.positions.size());
        outcome.changes.insert(outcome.changes.end(), of.codes.data(), of.codes.data() + of.codes.size());
      }
    }
    return outcome;
  }

  // What was decoded last.
  void RequireApplies(const Isa& isa) {
    const int64_t* first = item_->first.data() + mutated_;
    for (int64_t t = first[0]; t < first[1]; ++t) RequireApplies(isa, static_cast<size_t>(t));
    Bytes again;
    if (!Encode(static_cast<size_t>(mutated_), &again)) return;  // more escapes than an encoder has room for
    const Exact<uint8_t>& bytes = bytes_[static_cast<size_t>(mutated_)];
    Require(again.size() == bytes.size() && std::memcmp(again.data(), bytes.data(), again.size()) == 0,
            "accepted bytes encode to others");
  }

  void RequireApplies(const Isa& isa, size_t t) {
    const ms_mask_tensor& view = views_[t];
    const Bytes& parent = item_->entry.tensors[t]->parent;
    for (int64_t i = 0; i < view.changes; ++i) {
      Require(view.positions[i] < view.groups && (i == 0 || view.positions[i] > view.positions[i - 1]),
              "changed groups that do not ascend within their tensor");
      Require(IsPattern(view.codes[i]) && view.codes[i] != NibbleAt(parent, view.positions[i]),
              "a change that is none");
    }
    Exact<uint8_t> mask(parent.size()), found_codes(static_cast<size_t>(view.groups));
    Exact<uint32_t> found(found_codes.size());
    isa.codec->apply_changes(context, mask.data(), parent.data(), view.groups, view.positions, view.codes,
                             view.changes);
    int64_t changes = 0;
    isa.codec->find_changes(context, mask.data(), parent.data(), view.groups, found.data(), found_codes.data(),
                            &changes);
    const size_t count = static_cast<size_t>(view.changes);
    Require(changes == view.changes && std::memcmp(found.data(), view.positions, 4 * count) == 0 &&
                std::memcmp(found_codes.data(), view.codes, count) == 0,
            "other changes are found than were applied");
  }

  std::vector<Item> corpus_;
  std::vector<std::vector<uint16_t>> tables_;  // that no chunk was made with
  // Of the input that is being run.
  Item* item_ = nullptr;
  std::vector<ms_mask_tensor> views_;
  std::vector<uint16_t> gaps_;
  bool remodelled_ = false;
  int64_t mutated_ = 0;
  std::vector<Exact<uint8_t>> bytes_;
  std::vector<ms_mask_chunk> chunks_;
  std::vector<Changes> changes_;
};

}  // namespace

std::unique_ptr<Target> MakePatchTarget(Random& random, uint32_t coder) {
  return std::make_unique<PatchTarget>(random, coder);
}
