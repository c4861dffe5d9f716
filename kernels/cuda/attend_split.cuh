// What a block of decoding does with keys and values: a softmax as it runs over them, in vectors of four columns, and
// how two of them join.
#pragma once

#include "cache.cuh"
#include "reduce.cuh"

namespace maskserve {
namespace cuda {
namespace {

constexpr int kAttendThreads = 128;
constexpr int kUnroll = 4;  // keys

MS_DEVICE float4 Zero4() {
  return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}
MS_DEVICE float Dot4(const float4& a, const float4& b, float sum) {
  return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
}
MS_DEVICE float4 Fma4(float w, const float4& v, const float4& sum) {
  return make_float4(fmaf(w, v.x, sum.x), fmaf(w, v.y, sum.y), fmaf(w, v.z, sum.z), fmaf(w, v.w, sum.w));
}
MS_DEVICE float4 Scale4(const float4& v, float by) {
  return make_float4(v.x * by, v.y * by, v.z * by, v.w * by);
}

// One head's running softmax in the lanes of a key: Σ 2^(s − largest) v, Σ 2^(s − largest).
template <int kVectors>
struct Running {
  float largest, total;
  float4 sum[kVectors];
};

MS_DEVICE float BaseOf(float largest) {
  return largest == -INFINITY ? 0.0f : largest;
}
template <int kVectors>
MS_DEVICE void Clear(Running<kVectors>& state) {
  state.largest = -INFINITY;
  state.total = 0;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) state.sum[i] = Zero4();
}
// For `most` as the largest.
template <int kVectors>
MS_DEVICE void Rescale(Running<kVectors>& state, float most) {
  const float shrink = Exp2(state.largest - BaseOf(most));
  state.largest = most;
  state.total *= shrink;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) state.sum[i] = Scale4(state.sum[i], shrink);
}
// One whose largest is not above the state's.
template <int kVectors>
MS_DEVICE void Add(Running<kVectors>& state, const Running<kVectors>& other) {
  const float shrink = Exp2(other.largest - BaseOf(state.largest));
  state.total = fmaf(shrink, other.total, state.total);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) state.sum[i] = Fma4(shrink, other.sum[i], state.sum[i]);
}

// A lane's kVectors · 4 columns of a row from `at` on, as they lie in memory; the second vector `apart` elements on.
template <typename T, int kVectors, bool kWide>
MS_DEVICE void LoadColumns(typename CacheFour<T>::Type (&to)[kVectors], const T* at, int apart) {
  if constexpr (sizeof(T) == 2 && kWide) {
    const uint4 both = LoadStream(at);
    to[0] = {both.x, both.y};
    to[1] = {both.z, both.w};
  } else {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      to[i] = *reinterpret_cast<const typename CacheFour<T>::Type*>(at + (i == 0 ? 0 : apart));
    }
  }
}

// kLanes lanes a key of T, kVectors · 4 columns a lane; kHeads query heads of the kv-head. kWide: of bf16, columns that
// are read at once.
template <typename T, int kLanes, int kVectors, int kHeads, bool kWide>
struct SplitAttention {
  static constexpr int kKeys = kAttendThreads / kLanes;  // at once
  typedef Running<kVectors> State;
  // A lane's part of kUnroll rows.
  typedef typename CacheFour<T>::Type Columns[kUnroll][kVectors];
  // A split's keys or values, from the lane's columns of the first one on; `mine`: the first one of the lane.
  struct Rows {
    const T* data;
    int stride, apart, mine, count;
  };

  // The lane's rows from `first` on; the last one stands for those that are not there.
  MS_METHOD void Load(Columns& to, const Rows& rows, int first) {
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) {
      const int row = Min(first + rows.mine + kKeys * j, rows.count - 1);
      LoadColumns<T, kVectors, kWide>(to[j], rows.data + static_cast<int64_t>(row) * rows.stride, rows.apart);
    }
  }

  MS_METHOD void Score(float (&scores)[kHeads][kUnroll], const float4 (&q)[kHeads][kVectors], const Columns& k,
                       int left, float scale) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
#pragma unroll
      for (int j = 0; j < kUnroll; ++j) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < kVectors; ++i) sum = Dot4(q[h][i], Widened(k[j][i]), sum);
        sum = WarpSum<kLanes>(sum);
        scores[h][j] = kKeys * j < left ? sum * scale : -INFINITY;
      }
    }
  }

  // The rows join each head's softmax.
  MS_METHOD void Join(State (&states)[kHeads], const float (&scores)[kHeads][kUnroll], const Columns& v) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float most = states[h].largest;
#pragma unroll
      for (int j = 0; j < kUnroll; ++j) most = fmaxf(most, scores[h][j]);
      const float base = BaseOf(most);
      Rescale(states[h], most);
#pragma unroll
      for (int j = 0; j < kUnroll; ++j) {
        const float e = Exp2(scores[h][j] - base);
        states[h].total += e;
#pragma unroll
        for (int i = 0; i < kVectors; ++i) states[h].sum[i] = Fma4(e, Widened(v[j][i]), states[h].sum[i]);
      }
    }
  }
};

}  // namespace
}  // namespace cuda
}  // namespace maskserve
