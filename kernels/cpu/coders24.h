// The coders of FORMAT.md §7 for 2:4: what each reads of a step's groups, and the context and coded symbol of each
// group.
#pragma once

#include "context24.h"
#include "ops.h"
#include "rans24.h"

namespace maskserve {
namespace {

// Of one step: 128 weights, 128 scales, 16 bytes of the parent's nibbles; NULL for what the coder does not read.
struct StepInputs {
  const uint16_t* weights;
  const int16_t* scales;
  const uint8_t* parent;
};

constexpr bool ReadsParent(uint32_t coder) {
  return coder == MS_CODER_PARENT || coder == MS_CODER_PARENT_WEIGHTS;
}
constexpr bool ReadsScales(uint32_t coder) {
  return coder == MS_CODER_SCALED_WEIGHTS;
}
constexpr bool ReadsWeights(uint32_t coder) {
  return coder == MS_CODER_WEIGHTS || coder == MS_CODER_SCALED_WEIGHTS || coder == MS_CODER_PARENT_WEIGHTS ||
         coder == MS_CODER_MAGNITUDE;
}
constexpr bool HasContexts(uint32_t coder) {
  return coder == MS_CODER_PARENT || coder == MS_CODER_WEIGHTS || coder == MS_CODER_SCALED_WEIGHTS ||
         coder == MS_CODER_PARENT_WEIGHTS;
}

// A tensor's inputs step by step. Steps that would reach beyond the tensor, or into the next row's scales, get copies.
class InputSteps {
 public:
  MS_METHOD explicit InputSteps(const ms_mask_tensor& tensor) : tensor_(tensor) {}

  template <uint32_t kCoder>
  MS_METHOD StepInputs At(int64_t group, int64_t groups) {
    StepInputs in = {nullptr, nullptr, nullptr};
    if (ReadsWeights(kCoder)) {
      in.weights = Whole(weights_, tensor_.weights + 4 * group, groups, 4 * groups);
    }
    if (ReadsParent(kCoder)) in.parent = Whole(parent_, tensor_.parent + group / 2, groups, (groups + 1) / 2);
    if (ReadsScales(kCoder)) in.scales = ScalesAt(4 * group % tensor_.cols);
    return in;
  }

 private:
  template <typename T, int N>
  MS_METHOD const T* Whole(T (&copy)[N], const T* from, int64_t groups, int64_t count) {
    if (groups == kStep) return from;
    memset(copy, 0, sizeof(copy));
    memcpy(copy, from, static_cast<size_t>(count) * sizeof(T));
    return copy;
  }

  MS_METHOD const int16_t* ScalesAt(int64_t column) {
    if (column + kStepWeights <= tensor_.cols) return tensor_.scales + column;
    for (int64_t done = 0; done < kStepWeights;) {
      const int64_t count = Min(kStepWeights - done, tensor_.cols - column);
      memcpy(scales_ + done, tensor_.scales + column, static_cast<size_t>(count) * sizeof(int16_t));
      done += count;
      column = 0;
    }
    return scales_;
  }

  const ms_mask_tensor& tensor_;
  uint16_t weights_[kStepWeights];
  int16_t scales_[kStepWeights];
  uint8_t parent_[kStep / 2];
};

// What is known of a step before its mask: contexts, and the order in which symbols are coded as rank patterns.
struct Known {
  Lanes context;
  Order order;
};

template <uint32_t kCoder>
MS_INLINE Known Look(const StepInputs& in) {
  Known known;
  if (ReadsWeights(kCoder)) known.order = Sort(LoadMagnitudes(in.weights, in.scales));
  known.context = SetLanes(0);
  if (kCoder == MS_CODER_WEIGHTS || kCoder == MS_CODER_SCALED_WEIGHTS) known.context = RootContext(known.order);
  if (!ReadsParent(kCoder)) return known;
  const Lanes parent = SymbolsOfNibbles(LoadLaneNibbles(in.parent));
  if (kCoder == MS_CODER_PARENT)
    known.context = parent;
  else
    known.context = ChildContext(known.order, MapSymbols(parent, known.order.rank));
  return known;
}

template <uint32_t kCoder>
MS_INLINE Lanes NibblesOfCoded(Lanes coded, const Known& known) {
  return NibblesOfSymbols(ReadsWeights(kCoder) ? MapSymbols(coded, known.order.position) : coded);
}

template <uint32_t kCoder>
MS_INLINE Lanes CodedOfNibbles(Lanes nibbles, const Known& known) {
  const Lanes symbols = SymbolsOfNibbles(nibbles);
  return ReadsWeights(kCoder) ? MapSymbols(symbols, known.order.rank) : symbols;
}

// body.Run<coder>() for a coder that is known at run time; false for any other id.
template <typename Body>
MS_INLINE bool WithCoder(uint32_t coder, Body& body) {
  switch (coder) {
    case MS_CODER_UNIFORM:
    case MS_CODER_STATIC:
      return body.template Run<MS_CODER_STATIC>();
    case MS_CODER_PARENT:
      return body.template Run<MS_CODER_PARENT>();
    case MS_CODER_WEIGHTS:
      return body.template Run<MS_CODER_WEIGHTS>();
    case MS_CODER_SCALED_WEIGHTS:
      return body.template Run<MS_CODER_SCALED_WEIGHTS>();
    case MS_CODER_PARENT_WEIGHTS:
      return body.template Run<MS_CODER_PARENT_WEIGHTS>();
    default:
      return false;
  }
}

// The tensor that holds step `step` of the sequence of all steps: the last one that starts at or before it.
MS_INLINE int64_t TensorOfStep(const ms_mask_tensor* tensors, int64_t count, int64_t step) {
  int64_t low = 0, high = count - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (tensors[middle].first_step <= step)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

MS_INLINE int64_t StepsOf(const ms_mask_tensor& tensor) {
  return CeilDiv(tensor.groups, kStep);
}

// A chunk of fewer steps has one lane.
constexpr int64_t kLeastLaneSteps = 128;

}  // namespace
}  // namespace maskserve
