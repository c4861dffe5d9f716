// Valid inputs of the native codec's fuzzer, and what can happen to them.

#include <algorithm>

#include "fuzz_codec.h"

namespace {

int64_t ContextsOf(uint32_t coder) {
  switch (coder) {
    case MS_CODER_PARENT:
    case MS_CODER_PATCH:
      return 6;
    case MS_CODER_WEIGHTS:
    case MS_CODER_SCALED_WEIGHTS:
      return 64;
    case MS_CODER_PARENT_WEIGHTS:
    case MS_CODER_PATCH_WEIGHTS:
      return 60;
    default:
      return 1;
  }
}

// A mask near its parent, and the changes between them: at least one.
void FillMask(Random& random, Tensor& t) {
  const int64_t groups = t.view.groups, churn = 1 + random.Below(20);
  for (int64_t i = 0; i < groups; ++i) {
    SetNibble(t.parent, i, kNibbles[random.Below(6)]);
    SetNibble(t.mask, i, random.OneIn(churn) ? kNibbles[random.Below(6)] : NibbleAt(t.parent, i));
  }
  if (NibbleAt(t.mask, groups - 1) == NibbleAt(t.parent, groups - 1)) {
    SetNibble(t.mask, groups - 1, NibbleAt(t.parent, groups - 1) == 4 ? 14 : 4);
  }
  for (int64_t i = 0; i < groups; ++i) {
    if (NibbleAt(t.mask, i) == NibbleAt(t.parent, i)) continue;
    t.positions.push_back(static_cast<uint32_t>(i));
    t.codes.push_back(static_cast<uint8_t>(NibbleAt(t.mask, i)));
  }
}

std::unique_ptr<Tensor> RandomTensor(Random& random, uint32_t coder, int64_t most_groups, int64_t unit,
                                     int64_t first_step) {
  auto t = std::make_unique<Tensor>();
  const int64_t most_units = std::max<int64_t>(1, std::min<int64_t>(most_groups, 40) / unit);
  const int64_t row_groups = unit * (1 + random.Below(most_units));
  const int64_t groups = row_groups * (1 + random.Below(std::max<int64_t>(1, most_groups / row_groups)));
  t->view.coder = coder;
  t->view.contexts = static_cast<uint32_t>(ContextsOf(coder));
  t->view.groups = groups;
  t->view.cols = 4 * row_groups;
  t->view.first_step = first_step;
  t->weights.resize(static_cast<size_t>(4 * groups));
  for (uint16_t& w : t->weights)
    w = static_cast<uint16_t>(random.OneIn(4) ? random.Next() : 0x3c00 + random.Below(300));
  t->scales.resize(static_cast<size_t>(4 * row_groups));
  for (int16_t& s : t->scales) s = static_cast<int16_t>(16 * (random.Below(64) - 32));
  t->parent.resize(static_cast<size_t>((groups + 1) / 2));
  t->mask.resize(t->parent.size());
  FillMask(random, *t);
  return t;
}

void PointAt(Tensor& t) {
  t.view.starts = t.starts.data();
  t.view.weights = t.weights.data();
  t.view.scales = t.scales.data();
  t.view.parent = t.parent.data();
  t.view.mask = t.mask.data();
  t.view.changes = static_cast<int64_t>(t.positions.size());
  t.view.positions = t.positions.data();
  t.view.codes = t.codes.data();
}

}  // namespace

std::vector<ms_mask_tensor> Entry::Views() const {
  std::vector<ms_mask_tensor> views;
  for (const auto& tensor : tensors) {
    PointAt(*tensor);
    views.push_back(tensor->view);
  }
  return views;
}

Entry RandomEntry(Random& random, uint32_t coder, EntryForm form) {
  Entry entry;
  int64_t steps = 0;
  do {
    // Many steps come from few tensors or from many.
    const int64_t most = form.least_steps > 1 && random.OneIn(2) ? 32 * form.least_steps / 2 : 1 + random.Below(90);
    entry.tensors.push_back(RandomTensor(random, coder, most, form.row_groups, steps));
    steps += (entry.tensors.back()->view.groups + 31) / 32;
  } while (form.least_steps > 1 ? steps < form.least_steps : random.OneIn(3));
  entry.chunk_steps = steps;
  return entry;
}

Entry RandomEntry(Random& random, uint32_t coder) {
  return RandomEntry(random, coder, {random.OneIn(4) ? 128 : 1, 1});
}

std::vector<uint16_t> FittedStarts(const uint32_t* counts, int symbols, int stride) {
  std::vector<uint16_t> starts(static_cast<size_t>(stride));
  uint64_t sum = 0;
  int largest = 0;
  for (int s = 0; s < symbols; ++s) {
    sum += counts[s];
    if (counts[s] > counts[largest]) largest = s;
  }
  std::vector<int64_t> frequency(static_cast<size_t>(symbols));
  int64_t rest = 16384;
  for (int s = 0; s < symbols; ++s) {
    if (s == largest || counts[s] == 0) continue;
    frequency[static_cast<size_t>(s)] = std::max<int64_t>(1, static_cast<int64_t>(counts[s] * uint64_t{16000} / sum));
    rest -= frequency[static_cast<size_t>(s)];
  }
  frequency[static_cast<size_t>(largest)] = rest;
  int64_t at = 0;
  for (int s = 0; s < symbols; ++s) {
    starts[static_cast<size_t>(s)] = static_cast<uint16_t>(at);
    at += frequency[static_cast<size_t>(s)];
  }
  starts[static_cast<size_t>(symbols)] = static_cast<uint16_t>(at);
  return starts;
}

Bytes Damaged(Random& random, const Bytes& bytes) {
  Bytes out = bytes;
  for (int64_t left = 1 + random.Below(3); left > 0; --left) {
    if (out.empty()) out.push_back(0);
    const size_t at = static_cast<size_t>(random.Below(static_cast<int64_t>(out.size())));
    const size_t run = std::min(out.size() - at, static_cast<size_t>(1 + random.Below(8)));
    switch (random.Below(8)) {
      case 0:
        out[at] ^= static_cast<uint8_t>(1 << random.Below(8));
        break;
      case 1:
        out[at] = static_cast<uint8_t>(random.Next());
        break;
      case 2:
        std::fill_n(out.begin() + static_cast<std::ptrdiff_t>(at), run, uint8_t{0});
        break;
      case 3:
        std::fill_n(out.begin() + static_cast<std::ptrdiff_t>(at), run, uint8_t{255});
        break;
      case 4:
        out.resize(at);
        break;
      case 5: {
        const Bytes part(out.begin() + static_cast<std::ptrdiff_t>(at),
                         out.begin() + static_cast<std::ptrdiff_t>(at + run));
        out.insert(out.begin() + random.Below(static_cast<int64_t>(out.size())), part.begin(), part.end());
        break;
      }
      case 6:
        for (size_t i = 0; i < run; ++i) out[at + i] = static_cast<uint8_t>(random.Next());
        break;
      default:
        out.erase(out.begin() + static_cast<std::ptrdiff_t>(at), out.begin() + static_cast<std::ptrdiff_t>(at + run));
    }
  }
  return out;
}
