// A float vector of the instruction set this file is compiled for: 16 lanes (AVX-512), 8 (AVX2), 4 (baseline, through
// GCC's vector extensions, so that SSE2 and NEON both come out of it).
//
// Every function has internal linkage: op files are compiled once per instruction set, and a shared inline function
// could be linked from the wrong one. For the same reason op files use no templates of the standard library.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512BF16__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define MS_INLINE __attribute__((always_inline, unused)) static inline
// The same for a member of a class.
#define MS_METHOD __attribute__((always_inline)) inline
// A tile's loop, once: inlined where it is called the compiler makes a copy for every way in and out of it, and AVX2's
// 2:4 tile runs 10% slower.
#define MS_TILE __attribute__((noinline)) static

namespace maskserve {
namespace {

MS_INLINE float FloatOfBits(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

MS_INLINE uint32_t BitsOfFloat(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return bits;
}

MS_INLINE float FloatOfBf16(uint16_t b) {
  return FloatOfBits(static_cast<uint32_t>(b) << 16);
}

// Nearest, ties to even; a NaN stays a NaN (quiet).
MS_INLINE uint16_t Bf16OfFloat(float f) {
  const uint32_t bits = BitsOfFloat(f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

constexpr MS_INLINE int64_t Min(int64_t a, int64_t b) {
  return a < b ? a : b;
}
constexpr MS_INLINE int64_t Max(int64_t a, int64_t b) {
  return a > b ? a : b;
}
constexpr MS_INLINE int64_t CeilDiv(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

#if defined(__AVX512BF16__)

constexpr int W = 16;
typedef __m512 VF;
typedef __m512i VI;  // 2W bf16

MS_INLINE __mmask16 FirstLanes(int64_t n) {
  return static_cast<__mmask16>((1u << n) - 1u);
}
MS_INLINE VF Set(float f) {
  return _mm512_set1_ps(f);
}
MS_INLINE VF Load(const float* p) {
  return _mm512_loadu_ps(p);
}
MS_INLINE VF LoadPart(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(FirstLanes(n), p);
}
MS_INLINE void Store(float* p, VF v) {
  _mm512_storeu_ps(p, v);
}
MS_INLINE void StorePart(float* p, VF v, int64_t n) {
  _mm512_mask_storeu_ps(p, FirstLanes(n), v);
}
MS_INLINE VF Add(VF a, VF b) {
  return _mm512_add_ps(a, b);
}
MS_INLINE VF Sub(VF a, VF b) {
  return _mm512_sub_ps(a, b);
}
MS_INLINE VF Mul(VF a, VF b) {
  return _mm512_mul_ps(a, b);
}
MS_INLINE VF Div(VF a, VF b) {
  return _mm512_div_ps(a, b);
}
MS_INLINE VF Fma(VF a, VF b, VF c) {
  return _mm512_fmadd_ps(a, b, c);
}
// Where either is a NaN the result is b.
MS_INLINE VF Larger(VF a, VF b) {
  return _mm512_max_ps(a, b);
}
MS_INLINE VF Smaller(VF a, VF b) {
  return _mm512_min_ps(a, b);
}
MS_INLINE float Sum(VF v) {
  return _mm512_reduce_add_ps(v);
}
MS_INLINE float Largest(VF v) {
  return _mm512_reduce_max_ps(v);
}
MS_INLINE VF Round(VF v) {
  return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// v · 2^n for integral n.
MS_INLINE VF Scale2(VF v, VF n) {
  return _mm512_scalef_ps(v, n);
}
MS_INLINE VF Sqrt(VF v) {
  return _mm512_sqrt_ps(v);
}
// x = mantissa · 2^exponent with the mantissa in [1, 2), for positive normal x.
MS_INLINE VF Exponent(VF x) {
  return _mm512_getexp_ps(x);
}
MS_INLINE VF Mantissa(VF x) {
  return _mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
}
MS_INLINE VF ZeroBelow(VF v, VF x, float limit) {
  return _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask(x, Set(limit), _CMP_LT_OQ), _mm512_setzero_ps());
}

MS_INLINE VF LoadBf16(const uint16_t* p) {
  const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
MS_INLINE VF LoadBf16Part(const uint16_t* p, int64_t n) {
  const __m256i h = _mm256_maskz_loadu_epi16(FirstLanes(n), p);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
MS_INLINE VI LoadPairs(const uint16_t* p) {
  return _mm512_loadu_si512(p);
}
MS_INLINE VI LoadPairsPart(const uint16_t* p, int64_t n) {
  return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((1ull << n) - 1u), p);
}
MS_INLINE VF Even(VI v) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}
MS_INLINE VF Odd(VI v) {
  return _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

#elif defined(__AVX2__)

constexpr int W = 8;
typedef __m256 VF;
typedef __m256i VI;

MS_INLINE __m256i FirstLanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
MS_INLINE VF Set(float f) {
  return _mm256_set1_ps(f);
}
MS_INLINE VF Load(const float* p) {
  return _mm256_loadu_ps(p);
}
MS_INLINE VF LoadPart(const float* p, int64_t n) {
  return _mm256_maskload_ps(p, FirstLanes(n));
}
MS_INLINE void Store(float* p, VF v) {
  _mm256_storeu_ps(p, v);
}
MS_INLINE void StorePart(float* p, VF v, int64_t n) {
  _mm256_maskstore_ps(p, FirstLanes(n), v);
}
MS_INLINE VF Add(VF a, VF b) {
  return _mm256_add_ps(a, b);
}
MS_INLINE VF Sub(VF a, VF b) {
  return _mm256_sub_ps(a, b);
}
MS_INLINE VF Mul(VF a, VF b) {
  return _mm256_mul_ps(a, b);
}
MS_INLINE VF Div(VF a, VF b) {
  return _mm256_div_ps(a, b);
}
MS_INLINE VF Fma(VF a, VF b, VF c) {
  return _mm256_fmadd_ps(a, b, c);
}
MS_INLINE VF Larger(VF a, VF b) {
  return _mm256_max_ps(a, b);
}
MS_INLINE VF Smaller(VF a, VF b) {
  return _mm256_min_ps(a, b);
}
MS_INLINE float Sum(VF v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
MS_INLINE float Largest(VF v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
MS_INLINE VF Round(VF v) {
  return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// In two halves, so that exponents down to the denormals and up to the largest float are reached.
MS_INLINE VF Scale2(VF v, VF n) {
  const __m256i i = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(i, 1), rest = _mm256_sub_epi32(i, half);
  const __m256i bias = _mm256_set1_epi32(127);
  const VF a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const VF b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
  return Mul(Mul(v, a), b);
}
MS_INLINE VF Sqrt(VF v) {
  return _mm256_sqrt_ps(v);
}
MS_INLINE VF Exponent(VF x) {
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(_mm256_castps_si256(x), 23), _mm256_set1_epi32(127)));
}
MS_INLINE VF Mantissa(VF x) {
  const __m256i fraction = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x007fffff));
  return _mm256_castsi256_ps(_mm256_or_si256(fraction, _mm256_set1_epi32(0x3f800000)));
}
MS_INLINE VF ZeroBelow(VF v, VF x, float limit) {
  return _mm256_andnot_ps(_mm256_cmp_ps(x, Set(limit), _CMP_LT_OQ), v);
}

MS_INLINE VF LoadBf16(const uint16_t* p) {
  const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
MS_INLINE VF LoadBf16Part(const uint16_t* p, int64_t n) {
  uint16_t whole[8] = {0};
  memcpy(whole, p, static_cast<size_t>(n) * 2);
  return LoadBf16(whole);
}
MS_INLINE VI LoadPairs(const uint16_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
MS_INLINE VI LoadPairsPart(const uint16_t* p, int64_t n) {
  uint16_t whole[16] = {0};
  memcpy(whole, p, static_cast<size_t>(n) * 2);
  return LoadPairs(whole);
}
MS_INLINE VF Even(VI v) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
}
MS_INLINE VF Odd(VI v) {
  return _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}

#else

constexpr int W = 4;
typedef float VF __attribute__((vector_size(16)));
typedef uint32_t VI __attribute__((vector_size(16)));
typedef int32_t VS __attribute__((vector_size(16)));

MS_INLINE VF Set(float f) {
  return VF{f, f, f, f};
}
MS_INLINE VF Load(const float* p) {
  VF v;
  memcpy(&v, p, sizeof(v));
  return v;
}
MS_INLINE VF LoadPart(const float* p, int64_t n) {
  VF v = {0, 0, 0, 0};
  memcpy(&v, p, static_cast<size_t>(n) * 4);
  return v;
}
MS_INLINE void Store(float* p, VF v) {
  memcpy(p, &v, sizeof(v));
}
MS_INLINE void StorePart(float* p, VF v, int64_t n) {
  memcpy(p, &v, static_cast<size_t>(n) * 4);
}
MS_INLINE VF Add(VF a, VF b) {
  return a + b;
}
MS_INLINE VF Sub(VF a, VF b) {
  return a - b;
}
MS_INLINE VF Mul(VF a, VF b) {
  return a * b;
}
MS_INLINE VF Div(VF a, VF b) {
  return a / b;
}
MS_INLINE VF Fma(VF a, VF b, VF c) {
  return a * b + c;
}
MS_INLINE VF Where(VS mask, VF a, VF b) {
  return (VF)((mask & (VS)a) | (~mask & (VS)b));
}
MS_INLINE VF Larger(VF a, VF b) {
  return Where(a > b, a, b);
}
MS_INLINE VF Smaller(VF a, VF b) {
  return Where(a < b, a, b);
}
MS_INLINE float Sum(VF v) {
  return (v[0] + v[2]) + (v[1] + v[3]);
}
MS_INLINE float Largest(VF v) {
  const float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
  return a > b ? a : b;
}
// Adding and taking away 1.5 · 2²³ leaves no fraction bits; good for |v| < 2²².
MS_INLINE VF Round(VF v) {
  const VF magic = Set(12582912.0f);
  return (v + magic) - magic;
}
MS_INLINE VF Scale2(VF v, VF n) {
  const VS i = __builtin_convertvector(n, VS), half = i >> 1, rest = i - half;
  return v * (VF)((half + 127) << 23) * (VF)((rest + 127) << 23);
}
MS_INLINE VF Sqrt(VF v) {
  return VF{sqrtf(v[0]), sqrtf(v[1]), sqrtf(v[2]), sqrtf(v[3])};
}
MS_INLINE VF Exponent(VF x) {
  return __builtin_convertvector((VS)((VI)x >> 23) - 127, VF);
}
MS_INLINE VF Mantissa(VF x) {
  return (VF)(((VI)x & 0x007fffffu) | 0x3f800000u);
}
MS_INLINE VF ZeroBelow(VF v, VF x, float limit) {
  return (VF)(~(x < Set(limit)) & (VS)v);
}

MS_INLINE VF LoadBf16(const uint16_t* p) {
  return VF{FloatOfBf16(p[0]), FloatOfBf16(p[1]), FloatOfBf16(p[2]), FloatOfBf16(p[3])};
}
MS_INLINE VF LoadBf16Part(const uint16_t* p, int64_t n) {
  uint16_t whole[4] = {0};
  memcpy(whole, p, static_cast<size_t>(n) * 2);
  return LoadBf16(whole);
}
MS_INLINE VI LoadPairs(const uint16_t* p) {
  VI v;
  memcpy(&v, p, sizeof(v));
  return v;
}
MS_INLINE VI LoadPairsPart(const uint16_t* p, int64_t n) {
  VI v = {0, 0, 0, 0};
  memcpy(&v, p, static_cast<size_t>(n) * 2);
  return v;
}
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the kernels read bf16 pairs as little-endian words"
#endif
MS_INLINE VF Even(VI v) {
  return (VF)(v << 16);
}
MS_INLINE VF Odd(VI v) {
  return (VF)(v & 0xffff0000u);
}

#endif

MS_INLINE VF Zero() {
  return Set(0.0f);
}

}  // namespace
}  // namespace maskserve
