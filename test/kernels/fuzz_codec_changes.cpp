// Lists of changes to patches of a compacted matrix: changes_bytes24 and build_changes24 refuse exactly the lists that
// are unsound, and what they write says, read by its description in kernels/cpu/patch24.h, which weights come in and
// which go out.

// Compiled here: nothing in it depends on an instruction set.
#define ISA scalar
#include "../../kernels/cpu/patch24_changes.cpp"
#include "fuzz_codec_harness.h"

namespace {

constexpr int64_t kWindowRows = 256, kWindowGroups = 4096, kSliceRows = 16, kSliceHead = 2 + kSliceRows,
                  kHeaderBytes = 32;

int64_t RoundUp(int64_t bytes) {
  return (bytes + 31) / 32 * 32;
}

template <typename T>
T At(const uint8_t* bytes, int64_t index) {
  T value;
  std::memcpy(&value, bytes + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

unsigned Kept(unsigned nibble) {
  return 1u << (nibble & 3) | 1u << (nibble >> 2);
}

struct Item {
  int64_t n, k;
  std::vector<uint16_t> weights;
  Bytes parent;
  Exact<uint8_t> packed;
};

// A list of changes, and the nibbles of the mask it makes of the parent.
struct List {
  std::vector<uint32_t> groups;
  Bytes codes;
};

class ChangesTarget : public Target {
 public:
  explicit ChangesTarget(Random& random) {
    for (int64_t i = 0; i < kCorpus; ++i) corpus_.push_back(MakeItem(random, i));
  }

  int32_t Run(Random& random) override {
    item_ = &corpus_[static_cast<size_t>(random.Below(kCorpus))];
    List list = RandomList(random);
    if (!random.OneIn(3)) Damage(random, list);
    // The parent is compress24's; a matrix of anything else must only do no harm.
    const bool sound_parent = !random.OneIn(16);
    Exact<uint8_t> parent(Bytes(item_->packed.data(), item_->packed.data() + item_->packed.size()));
    for (size_t i = 0; i < parent.size() && !sound_parent; ++i) {
      if (random.OneIn(4)) parent.data()[i] = static_cast<uint8_t>(random.Next());
    }
    const Exact<uint32_t> groups(list.groups);
    const Exact<uint8_t> codes(list.codes);
    const ms_changes24 changes{groups.data(), codes.data(), static_cast<int64_t>(groups.size())};
    const int64_t excess = random.OneIn(16) ? random.Below(200) - 100 : 0;
    const Outcome outcome = Build(parent, changes, excess);
    Require((outcome.sized == MS_OK) == Ascends(list), "a list is taken for what it is not");
    Require(excess == 0 || outcome.built != MS_OK, "a patch is written to a room of another size");
    if (sound_parent && excess == 0) {
      Require((outcome.built == MS_OK) == (Ascends(list) && TakesFinite(list)),
              "a patch is refused for what it is not");
    }
    if (sound_parent && outcome.built == MS_OK) RequireSays(outcome.patch, list);
    return outcome.built == MS_OK ? MS_CHUNK_OK : MS_CHUNK_POSITION;
  }

 private:
  struct Outcome {
    ms_status sized, built;
    Bytes patch;
  };

  static Item MakeItem(Random& random, int64_t number) {
    // Two windows of rows, two of columns, else a matrix of one slice or a few.
    const int64_t n = number == 0 ? 258 : number == 1 ? 2 : 1 + random.Below(40);
    const int64_t k = number == 0 ? 8 : number == 1 ? 16392 : 8 * (1 + random.Below(20));
    Item item{n, k, std::vector<uint16_t>(static_cast<size_t>(n * k)), Bytes(static_cast<size_t>(n * k / 8)),
              Exact<uint8_t>(static_cast<size_t>(n * k / 8 * 9))};
    const bool finite = !random.OneIn(4);
    for (uint16_t& w : item.weights) w = static_cast<uint16_t>(finite ? random.Next() & 0xbfff : random.Next());
    for (int64_t group = 0; group < n * k / 4; ++group) SetNibble(item.parent, group, kNibbles[random.Below(6)]);
    PackInto(item.packed.data(), item.weights.data(), item.parent.data(), n, k);
    return item;
  }

  int64_t Groups() const { return item_->n * item_->k / 4; }

  List RandomList(Random& random) const {
    List list;
    for (int64_t group = random.Below(40), churn = 1 + random.Below(40); group < Groups();
         group += 1 + random.Below(churn)) {
      if (list.groups.size() >= 64) group += random.Below(Groups());
      if (group >= Groups()) break;
      list.groups.push_back(static_cast<uint32_t>(group));
      list.codes.push_back(kNibbles[random.Below(6)]);
    }
    return list;
  }

  void Damage(Random& random, List& list) const {
    const int64_t count = static_cast<int64_t>(list.groups.size());
    if (count == 0) return;
    const size_t at = static_cast<size_t>(random.Below(count)), other = static_cast<size_t>(random.Below(count));
    switch (random.Below(6)) {
      case 0:
        list.groups[at] = static_cast<uint32_t>(random.OneIn(2) ? Groups() + random.Below(8) - 4 : random.Next());
        break;
      case 1:
        std::swap(list.groups[at], list.groups[other]);
        break;
      case 2:
        list.groups[at] = list.groups[other];
        break;
      case 3:
        list.codes[at] = static_cast<uint8_t>(random.OneIn(2) ? random.Below(16) : random.Next());
        break;
      case 4:
        list.groups.resize(at);
        list.codes.resize(at);
        break;
      default:
        for (uint32_t& group : list.groups) group = static_cast<uint32_t>(random.Below(Groups() + 1));
        if (random.OneIn(2)) std::sort(list.groups.begin(), list.groups.end());
    }
  }

  bool Ascends(const List& list) const {
    int64_t last = -1;
    for (size_t i = 0; i < list.groups.size(); ++i) {
      if (list.groups[i] <= last || list.groups[i] >= Groups() || !IsPattern(list.codes[i])) return false;
      last = list.groups[i];
    }
    return true;
  }

  // No infinite weight goes out: a sum would keep it.
  bool TakesFinite(const List& list) const {
    for (size_t i = 0; i < list.groups.size(); ++i) {
      const unsigned out = Kept(NibbleAt(item_->parent, list.groups[i])) & ~Kept(list.codes[i]);
      for (unsigned at = 0; at < 4; ++at) {
        const uint16_t weight = item_->weights[4 * size_t{list.groups[i]} + at];
        if ((out >> at & 1) != 0 && (weight & 0x7f80) == 0x7f80) return false;
      }
    }
    return true;
  }

  // A context of its own, whose working memory is as large as this list needs.
  Outcome Build(const Exact<uint8_t>& parent, const ms_changes24& changes, int64_t excess) const {
    ms_context* own = maskserve::ContextCreate();
    maskserve::ContextSetThreads(own, 1);
    const ms_weights packed{MS_BF16, 0, parent.data(), nullptr}, dense{MS_BF16, 0, item_->weights.data(), nullptr};
    int64_t bytes = 0;
    Outcome outcome{
        maskserve::scalar::ChangesBytes24(own, packed, changes, item_->n, item_->k, &bytes), MS_BAD_DATA, {}};
    Exact<uint8_t> patch(static_cast<size_t>(std::max<int64_t>(0, bytes + excess)));
    outcome.built = maskserve::scalar::BuildChanges24(own, patch.data(), static_cast<int64_t>(patch.size()), packed,
                                                      dense, changes, item_->n, item_->k);
    if (outcome.built == MS_OK) outcome.patch.assign(patch.data(), patch.data() + patch.size());
    maskserve::ContextDestroy(own);
    return outcome;
  }

  // The parent's mask with the patch's swaps is the list's, and each swap has the weights that it names.
  void RequireSays(const Bytes& patch, const List& list) const {
    std::vector<uint8_t> kept(static_cast<size_t>(Groups()));
    for (int64_t group = 0; group < Groups(); ++group) {
      kept[static_cast<size_t>(group)] = static_cast<uint8_t>(Kept(NibbleAt(item_->parent, group)));
    }
    const int64_t across = (item_->k / 4 + kWindowGroups - 1) / kWindowGroups;
    const int64_t windows = (item_->n + kWindowRows - 1) / kWindowRows * across;
    const uint8_t* table = patch.data() + kHeaderBytes;
    const uint8_t* heads = patch.data() + RoundUp(kHeaderBytes + 4 * (windows + 1));
    const uint8_t* steps = heads + RoundUp(across * ((item_->n + kSliceRows - 1) / kSliceRows) * kSliceHead);
    for (int64_t w = 0; w < windows; ++w) {
      const int64_t first_row = w / across * kWindowRows, slices = SlicesFrom(first_row);
      // Windows above are whole ones.
      const uint8_t* head = heads + (across * first_row / kSliceRows + w % across * slices) * kSliceHead;
      ApplyWindow(head, steps + 6 * kSliceRows * int64_t{At<uint32_t>(table, w)}, first_row, w % across * kWindowGroups,
                  kept);
    }
    for (size_t i = 0; i < list.groups.size(); ++i) {
      uint8_t& of_group = kept[list.groups[i]];
      Require(of_group == Kept(list.codes[i]), "the patch makes another mask");
      of_group = static_cast<uint8_t>(Kept(NibbleAt(item_->parent, list.groups[i])));
    }
    for (int64_t group = 0; group < Groups(); ++group) {
      Require(kept[static_cast<size_t>(group)] == Kept(NibbleAt(item_->parent, group)),
              "the patch changes a group that is not in the list");
    }
  }

  // Slices of the window that begins with this row.
  int64_t SlicesFrom(int64_t first_row) const {
    return (std::min(kWindowRows, item_->n - first_row) + kSliceRows - 1) / kSliceRows;
  }

  // head: each slice's number of steps, and each row's place among the slices' lanes.
  void ApplyWindow(const uint8_t* head, const uint8_t* step, int64_t first_row, int64_t first_group,
                   std::vector<uint8_t>& kept) const {
    const int64_t rows = std::min(kWindowRows, item_->n - first_row), slices = SlicesFrom(first_row);
    std::vector<int64_t> row_of(static_cast<size_t>(slices * kSliceRows), -1);
    for (int64_t row = 0; row < rows; ++row) row_of.at(head[2 * slices + row]) = row;
    for (int64_t slice = 0; slice < slices; ++slice) {
      for (uint32_t left = At<uint16_t>(head, slice); left > 0; --left, step += 6 * kSliceRows) {
        for (int64_t lane = 0; lane < kSliceRows; ++lane) {
          const int64_t row = row_of[static_cast<size_t>(slice * kSliceRows + lane)];
          if (row >= 0) ApplySwap(step, lane, first_row + row, first_group, kept);
        }
      }
    }
  }

  void ApplySwap(const uint8_t* step, int64_t lane, int64_t row, int64_t first_group,
                 std::vector<uint8_t>& kept) const {
    const uint16_t code = At<uint16_t>(step + 4 * kSliceRows, lane);
    const unsigned in = code & 3, out = code >> 2 & 3;
    if (in == out) return;
    const int64_t group = row * (item_->k / 4) + first_group + (code >> 4);
    Require(row < item_->n && group < Groups(), "a swap outside the matrix");
    const uint16_t* weights = item_->weights.data() + 4 * group;
    Require(At<uint16_t>(step, 2 * lane) == weights[in], "a weight that comes in is another");
    Require(At<uint16_t>(step, 2 * lane + 1) == (weights[out] ^ 0x8000), "a weight that goes out is another");
    uint8_t& of_group = kept[static_cast<size_t>(group)];
    Require((of_group >> out & 1) == 1 && (of_group >> in & 1) == 0, "a swap of what is not there");
    of_group = static_cast<uint8_t>((of_group & ~(1u << out)) | 1u << in);
  }

  std::vector<Item> corpus_;
  const Item* item_ = nullptr;
};

}  // namespace

std::unique_ptr<Target> MakeChangesTarget(Random& random) {
  return std::make_unique<ChangesTarget>(random);
}
