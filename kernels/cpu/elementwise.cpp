// Ops on single elements: conversion between value types, embedding rows, SiLU · up, sums.

#include "exp_log.h"
#include "ops.h"

namespace maskserve {
namespace {

constexpr int64_t kGrain = 32768;  // elements a task

// IEEE binary16 to binary32, exact: the exponent is rebased by a multiplication, which also normalises denormals.
MS_INLINE float FloatOfF16(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, rest = static_cast<uint32_t>(h & 0x7fffu) << 13;
  if (rest >= 0x7c00u << 13) return FloatOfBits(sign | 0x7f800000u | (rest & 0x007fffffu));
  return FloatOfBits(sign | BitsOfFloat(FloatOfBits(rest) * 0x1p112f));
}

MS_INLINE uint16_t ReadU16(const void* p, int64_t i) {
  uint16_t v;
  memcpy(&v, static_cast<const char*>(p) + 2 * i, 2);
  return v;
}

MS_INLINE float ReadF32(const void* p, int64_t i) {
  float v;
  memcpy(&v, static_cast<const char*>(p) + 4 * i, 4);
  return v;
}

MS_INLINE float ReadAs(const void* in, ms_value_type type, int64_t i) {
  if (type == MS_F16) return FloatOfF16(ReadU16(in, i));
  if (type == MS_F32) return ReadF32(in, i);
  return FloatOfBf16(ReadU16(in, i));
}

void ConvertToBf16(uint16_t* out, const void* in, ms_value_type type, int64_t begin, int64_t end) {
  if (type == MS_BF16) {
    memmove(out + begin, static_cast<const char*>(in) + 2 * begin, static_cast<size_t>(end - begin) * 2);
  } else if (type == MS_F16) {
    for (int64_t i = begin; i < end; ++i) out[i] = Bf16OfFloat(ReadAs(in, MS_F16, i));
  } else {
    for (int64_t i = begin; i < end; ++i) out[i] = Bf16OfFloat(ReadAs(in, MS_F32, i));
  }
}

void ConvertToF32(float* out, const void* in, ms_value_type type, int64_t begin, int64_t end) {
  if (type == MS_F32) {
    memmove(out + begin, static_cast<const char*>(in) + 4 * begin, static_cast<size_t>(end - begin) * 4);
  } else if (type == MS_F16) {
    for (int64_t i = begin; i < end; ++i) out[i] = ReadAs(in, MS_F16, i);
  } else {
    for (int64_t i = begin; i < end; ++i) out[i] = ReadAs(in, MS_BF16, i);
  }
}

MS_INLINE VF Silu(VF x) {
  return Div(x, Add(Set(1.0f), Exp(Sub(Zero(), x))));
}

void AddRange(float* x, const float* y, int64_t n) {
  int64_t i = 0;
  for (; i + W <= n; i += W) Store(x + i, Add(Load(x + i), Load(y + i)));
  if (i < n) StorePart(x + i, Add(LoadPart(x + i, n - i), LoadPart(y + i, n - i)), n - i);
}

}  // namespace

namespace ISA {

ms_status ToBf16(ms_context* ctx, uint16_t* out, const void* in, ms_value_type type, int64_t n) {
  if (type != MS_BF16 && type != MS_F16 && type != MS_F32) return FailType(ctx, "input", type);
  auto body = [&](int64_t begin, int64_t end, int) { ConvertToBf16(out, in, type, begin, end); };
  ParallelRanges(ctx, n, kGrain, body);
  return MS_OK;
}

ms_status ToF32(ms_context* ctx, float* out, const void* in, ms_value_type type, int64_t n) {
  if (type != MS_BF16 && type != MS_F16 && type != MS_F32) return FailType(ctx, "input", type);
  auto body = [&](int64_t begin, int64_t end, int) { ConvertToF32(out, in, type, begin, end); };
  ParallelRanges(ctx, n, kGrain, body);
  return MS_OK;
}

ms_status Embed(ms_context* ctx, float* out, ms_weights table, const int32_t* ids, int64_t tokens, int64_t dim) {
  if (table.type != MS_BF16) return FailType(ctx, "table", table.type);
  const uint16_t* rows = static_cast<const uint16_t*>(table.values);
  for (int64_t t = 0; t < tokens; ++t) ConvertToF32(out + t * dim, rows + ids[t] * dim, MS_BF16, 0, dim);
  return MS_OK;
}

ms_status SiluMul(ms_context* ctx, float* out, const float* gate, const float* up, int64_t n) {
  auto body = [&](int64_t begin, int64_t end, int) {
    int64_t i = begin;
    for (; i + W <= end; i += W) Store(out + i, Mul(Silu(Load(gate + i)), Load(up + i)));
    if (i < end) StorePart(out + i, Mul(Silu(LoadPart(gate + i, end - i)), LoadPart(up + i, end - i)), end - i);
  };
  ParallelRanges(ctx, n, kGrain, body);
  return MS_OK;
}

ms_status AddInto(ms_context* ctx, float* x, const float* y, int64_t n) {
  auto body = [&](int64_t begin, int64_t end, int) { AddRange(x + begin, y + begin, end - begin); };
  ParallelRanges(ctx, n, 4 * kGrain, body);
  return MS_OK;
}

ms_status AddBias(ms_context* ctx, float* x, const float* bias, int64_t rows, int64_t n) {
  auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) AddRange(x + r * n, bias, n);
  };
  ParallelRanges(ctx, rows, Max(1, 4 * kGrain / n), body);
  return MS_OK;
}

}  // namespace ISA
}  // namespace maskserve
