// y += Δ x for one token and some windows: the swaps of a patch (patch24.h) against activations picked by column. A
// vector holds a swap of each of 16 rows, so a slice's sums stay in their lanes to its end; the sums of a window then
// go to its rows by one permutation.
#pragma once

#include "patch24.h"
#include "pick24.h"

namespace maskserve {
namespace {

// Slices are too short for the hardware to follow their stream through the loads between. Two lines cover a step.
constexpr int64_t kAheadSteps24 = 48;

MS_INLINE void AskFor24(const uint8_t* at, int64_t away) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(at) + static_cast<uintptr_t>(away)));
}
MS_INLINE void AskForStep24(const uint8_t* at, int64_t away) {
  AskFor24(at, away);
  AskFor24(at, away + 64);
}

#if defined(__AVX512BF16__)

// The activations of the groups that eight codes name. In and out of a swap lie in one group, eight bytes: loading
// those one by one is faster than a gather, and codes are cheapest taken out of two words.
MS_INLINE __m512i EightGroups(const uint16_t* x, const uint8_t* codes) {
  uint64_t four[2];
  memcpy(four, codes, sizeof(four));
  const auto group = [&](int i) { return x + 4 * (four[i >> 2] >> (16 * (i & 3) + 4) & (kWindowGroups24 - 1)); };
  const auto pair = [&](int i) {
    const __m128i first = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(group(i)));
    return _mm_castpd_si128(_mm_loadh_pd(_mm_castsi128_pd(first), reinterpret_cast<const double*>(group(i + 1))));
  };
  const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(pair(0)), pair(2), 1);
  const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(pair(4)), pair(6), 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// sums ← of the 16 rows of a slice.
MS_INLINE void SliceSums24(float* sums, const uint16_t* x, const uint8_t* step, int64_t steps, int64_t ahead) {
  // Words of lane i: its group is the i-th of two registers of eight.
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i base = _mm512_or_si512(_mm512_slli_epi32(lane, 2), _mm512_slli_epi32(lane, 18));
  const __m512i position = _mm512_set1_epi32(0x30003);
  VF acc = Zero();
  for (; steps > 0; --steps, step += kStepBytes24) {
    AskForStep24(step, ahead);
    const uint8_t* codes = step + kStepCodes24;
    const __m512i code = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
    const __m512i positions = _mm512_and_si512(_mm512_or_si512(code, _mm512_slli_epi32(code, 14)), position);
    const __m512i picked =
        PickWords24(EightGroups(x, codes), EightGroups(x, codes + 16), _mm512_or_si512(base, positions));
    acc = _mm512_dpbf16_ps(acc, (__m512bh)_mm512_loadu_si512(step), (__m512bh)picked);
  }
  Store(sums, acc);
}

// y (rows) += the sums (256) at the rows' places. Sixteen registers hold the sums: the low five bits of a place choose
// among the lanes of two, the others between the eight results.
MS_INLINE void AddPlaced24(float* y, const float* sums, const uint8_t* places, int64_t rows) {
  VF lanes[kWindowSlices24];
#pragma GCC unroll 16
  for (int i = 0; i < kWindowSlices24; ++i) lanes[i] = Load(sums + i * W);
  for (int64_t r = 0; r < rows; r += W) {
    const __m512i place = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(places + r)));
    VF from[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) from[i] = _mm512_permutex2var_ps(lanes[2 * i], place, lanes[2 * i + 1]);
    const auto upper = [&](int bit) { return _mm512_test_epi32_mask(place, _mm512_set1_epi32(bit)); };
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) from[i] = _mm512_mask_mov_ps(from[2 * i], upper(32), from[2 * i + 1]);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) from[i] = _mm512_mask_mov_ps(from[2 * i], upper(64), from[2 * i + 1]);
    from[0] = _mm512_mask_mov_ps(from[0], upper(128), from[1]);
    if (rows - r >= W) {
      Store(y + r, Add(Load(y + r), from[0]));
    } else {
      StorePart(y + r, Add(LoadPart(y + r, rows - r), from[0]), rows - r);
    }
  }
}

#else

MS_INLINE void AddPlaced24(float* y, const float* sums, const uint8_t* places, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) y[r] += sums[places[r]];
}

#endif

MS_INLINE void SliceSums24(float* sums, const float* x, const uint8_t* step, int64_t steps, int64_t ahead) {
  for (int i = 0; i < kSliceRows24; ++i) sums[i] = 0;
  for (; steps > 0; --steps, step += kStepBytes24) {
    AskForStep24(step, ahead);
#pragma GCC unroll 16
    for (int i = 0; i < kSliceRows24; ++i) {
      const Swap24 swap = SwapOf24(step, i);
      sums[i] += FloatOfBf16(swap.in_weight) * x[swap.in] + FloatOfBf16(swap.minus_out_weight) * x[swap.out];
    }
  }
}

MS_INLINE float FloatOf(float x) {
  return x;
}
MS_INLINE float FloatOf(uint16_t x) {
  return FloatOfBf16(x);
}

// The same where activations may be infinite or not a number, which what is left of a lane must not multiply.
template <typename X>
void CarefulSliceSums24(float* sums, const X* x, const uint8_t* step, int64_t steps) {
  for (int i = 0; i < kSliceRows24; ++i) sums[i] = 0;
  for (; steps > 0; --steps, step += kStepBytes24) {
    for (int64_t i = 0; i < kSliceRows24; ++i) {
      const Swap24 swap = SwapOf24(step, i);
      if (swap.in == swap.out) continue;
      sums[i] += FloatOfBf16(swap.in_weight) * FloatOf(x[swap.in]);
      sums[i] += FloatOfBf16(swap.minus_out_weight) * FloatOf(x[swap.out]);
    }
  }
}

// Windows [begin, end) of a patch.
struct WindowsOf24 {
  Patch24 patch;
  int64_t begin, end;
};

MS_INLINE void AskForHead24(const uint8_t* head) {
  for (int64_t i = 0; i < kWindowSlices24 * kSliceHeadBytes24; i += 64) AskFor24(head, i);
}

// Asks for what AddWindows24 reads before it has asked for anything.
MS_INLINE void AskForWindows24(const WindowsOf24& windows) {
  const Window24 first = Patch24::Window(windows.patch, windows.begin);
  AskForHead24(first.head);
  for (int64_t at = 0; at < kAheadSteps24 * kStepBytes24; at += 64) AskFor24(first.steps, at);
}

// y (N), x (K) of one token. `finite`: all of x is. `next`, unless NULL: what this thread will probably read next,
// asked for near the end.
template <typename X>
void AddWindows24(float* y, const X* x, const WindowsOf24& windows, const WindowsOf24* next, bool finite) {
  const Patch24& patch = windows.patch;
  const uint8_t* const end = Patch24::Step(patch, Patch24::FirstStep(patch, windows.end));
  const Window24 other = next == NULL ? Window24() : Patch24::Window(next->patch, next->begin);
  constexpr int64_t kAhead = kAheadSteps24 * kStepBytes24;
  const int64_t beyond = next == NULL ? 0 : kAhead + (other.steps - end);
  for (int64_t i = windows.begin; i < windows.end; ++i) {
    const Window24 window = Patch24::Window(patch, i);
    const int64_t slices = window.place.Slices();
    AskForHead24(i + 1 == windows.end && next != NULL ? other.head : window.head + slices * kSliceHeadBytes24);
    if (window.StepsOf(0) == 0) continue;
    const X* columns = x + 4 * window.place.group;
    const uint8_t* step = window.steps;
    alignas(64) float sums[kWindowRows24];
    for (int64_t slice = 0; slice < slices; ++slice) {
      const int64_t steps = window.StepsOf(slice), bytes = steps * kStepBytes24;
      float* to = sums + slice * kSliceRows24;
      if (finite) {
        SliceSums24(to, columns, step, steps, bytes + kAhead <= end - step ? kAhead : beyond);
      } else {
        CarefulSliceSums24(to, columns, step, steps);
      }
      step += bytes;
    }
    for (int64_t lane = slices * kSliceRows24; lane < kWindowRows24; ++lane) sums[lane] = 0;
    AddPlaced24(y + window.place.row, sums, window.Places(), window.place.rows);
  }
}

}  // namespace
}  // namespace maskserve
