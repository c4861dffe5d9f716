#include "codec_arguments.h"

#include <cmath>
#include <cstring>

namespace maskserve {

namespace {

constexpr int64_t kMostGroups = int64_t{1} << 30, kMostCols = int64_t{1} << 24, kMostTensors = 16384;
constexpr int64_t kMostChunkSteps = int64_t{1} << 15;
constexpr int kSymbols = 6, kStride = 8, kWideSymbols = 64;
constexpr uint16_t kTotal = 1 << 14;

int64_t ContextsOf(uint32_t coder) {
  switch (coder) {
    case MS_CODER_PARENT:
    case MS_CODER_PATCH:
      return kSymbols;
    case MS_CODER_WEIGHTS:
    case MS_CODER_SCALED_WEIGHTS:
      return 64;
    case MS_CODER_PARENT_WEIGHTS:
    case MS_CODER_PATCH_WEIGHTS:
      return 10 * kSymbols;
    default:
      return 1;
  }
}

bool NeedsParent(uint32_t coder) {
  return coder == MS_CODER_PARENT || coder == MS_CODER_PARENT_WEIGHTS || coder == MS_CODER_PATCH ||
         coder == MS_CODER_PATCH_WEIGHTS;
}

bool NeedsWeights(uint32_t coder) {
  return coder == MS_CODER_WEIGHTS || coder == MS_CODER_SCALED_WEIGHTS || coder == MS_CODER_PARENT_WEIGHTS ||
         coder == MS_CODER_PATCH_WEIGHTS || coder == MS_CODER_MAGNITUDE;
}

bool Ascends(const uint16_t* starts, int symbols) {
  if (starts[0] != 0 || starts[symbols] != kTotal) return false;
  for (int s = 0; s < symbols; ++s) {
    if (starts[s] > starts[s + 1]) return false;
  }
  return true;
}

uint32_t LengthOf(Call& call, napi_value array, const char* name) {
  bool is_array = false;
  uint32_t length = 0;
  napi_is_array(call.env(), array, &is_array);
  if (!is_array) call.Fail(CallError::kType, std::string("expected ") + name + " to be an array");
  napi_get_array_length(call.env(), array, &length);
  return length;
}

}  // namespace

Field::Field(Call& call, napi_value object, const std::string& path, const char* name)
    : call_(call), path_(path + "." + name) {
  napi_valuetype type = napi_undefined;
  napi_typeof(call.env(), object, &type);
  if (type != napi_object) call.Fail(CallError::kType, "expected " + path + " to be an object");
  if (napi_get_named_property(call.env(), object, name, &value_) != napi_ok) Refuse("to be readable");
  napi_typeof(call.env(), value_, &type);
  given_ = type != napi_undefined;
}

void Field::Refuse(const std::string& expected) const {
  call_.Fail(CallError::kType, "expected " + path_ + " " + expected + (given_ ? "" : " but received undefined"));
}

int64_t Field::Count(int64_t least, int64_t most) const {
  double value = 0;
  if (napi_get_value_double(call_.env(), value_, &value) == napi_ok && value == std::floor(value) &&
      value >= static_cast<double>(least) && value <= static_cast<double>(most)) {
    return static_cast<int64_t>(value);
  }
  Refuse("to be an integer from " + std::to_string(least) + " to " + std::to_string(most));
}

const void* Field::Array(napi_typedarray_type type, const char* expected, int64_t elements) const {
  bool is_array = false;
  napi_is_typedarray(call_.env(), value_, &is_array);
  napi_typedarray_type actual = napi_float64_array;
  size_t length = 0;
  void* data = nullptr;
  if (is_array) napi_get_typedarray_info(call_.env(), value_, &actual, &length, &data, nullptr, nullptr);
  if (!is_array || actual != type || static_cast<int64_t>(length) < elements) {
    Refuse(std::string("to be ") + expected + " of at least " + std::to_string(elements) + " elements");
  }
  return data;
}

CodedTensors::CodedTensors(Call& call, size_t at, TensorUse use) {
  const uint32_t length = LengthOf(call, call.argument(at), "tensors");
  if (length == 0 || length > kMostTensors) call.Fail(CallError::kRange, "expected 1 to 16384 tensors");
  tensors_.reserve(length);
  try {
    for (uint32_t i = 0; i < length; ++i) {
      napi_value tensor = nullptr;
      napi_get_element(call.env(), call.argument(at), i, &tensor);
      Add(call, tensor, "tensors[" + std::to_string(i) + "]", use);
    }
    PointToTables();
    MoveToDevice(call);
  } catch (...) {
    for (const uint32_t slot : pinned_) BufferTable::Get().Unpin(slot);
    throw;
  }
}

CodedTensors::CodedTensors(Call& call, TensorUse use, napi_value tensor) {
  try {
    Add(call, tensor, "tensor", use);
    PointToTables();
    MoveToDevice(call);
  } catch (...) {
    for (const uint32_t slot : pinned_) BufferTable::Get().Unpin(slot);
    throw;
  }
}

CodedTensors::~CodedTensors() {
  for (const uint32_t slot : pinned_) BufferTable::Get().Unpin(slot);
}

int64_t CodedTensors::steps() const {
  return tensors_.back().first_step + (tensors_.back().groups + 31) / 32;
}

void CodedTensors::RequireSymbolCoders(Call& call) const {
  for (const ms_mask_tensor& tensor : tensors_) {
    const bool coded = tensor.coder >= MS_CODER_UNIFORM && tensor.coder <= MS_CODER_PARENT_WEIGHTS;
    call.Require(coded, "coder", "to be one of 2 to 7", tensor.coder);
  }
}

void CodedTensors::RequireOneCoder(Call& call) const {
  for (const ms_mask_tensor& tensor : tensors_) {
    call.Require(tensor.coder == tensors_[0].coder, "coder", "to be that of the first tensor", tensor.coder);
  }
}

std::vector<int64_t> CodedTensors::PatchChunks(int64_t full) const {
  std::vector<int64_t> first = {0};
  int64_t changes = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (changes >= full) {
      first.push_back(static_cast<int64_t>(i));
      changes = 0;
    }
    changes += tensors_[i].changes;
  }
  first.push_back(count());
  return first;
}

void CodedTensors::Add(Call& call, napi_value tensor, const std::string& path, TensorUse use) {
  device_allowed_ = use.device;
  ms_mask_tensor t = {};
  t.coder = static_cast<uint32_t>(Field(call, tensor, path, "coder").Count(MS_CODER_UNIFORM_AC, MS_CODER_MAGNITUDE));
  t.groups = Field(call, tensor, path, "groups").Count(1, kMostGroups);
  t.cols = Field(call, tensor, path, "cols").Count(4, kMostCols);
  t.contexts = static_cast<uint32_t>(ContextsOf(t.coder));
  t.first_step = tensors_.empty() ? 0 : steps();
  tensors_.push_back(t);
  first_table_.push_back(-1);
  AddInputs(call, tensor, path, use);
  if (use.tables) AddTables(call, tensor, path);
  if (use.changes) AddChanges(call, tensor, path);
  if (use.packed) AddPacked(call, tensor, path);
  const Field mask(call, tensor, path, "mask");
  if (use.mask && (mask.given() || !use.mask_optional)) {
    Point(&ms_mask_tensor::mask, mask, napi_uint8_array, "a Uint8Array or a writable buffer", (t.groups + 1) / 2,
          Access::kWrite);
  }
}

void CodedTensors::AddTables(Call& call, napi_value tensor, const std::string& path) {
  const int64_t contexts = tensors_.back().contexts;
  const Field field(call, tensor, path, "cum");
  const auto* cum =
      static_cast<const uint16_t*>(field.Array(napi_uint16_array, "a Uint16Array", contexts * (kSymbols + 1)));
  first_table_.back() = static_cast<int64_t>(starts_.size());
  for (int64_t c = 0; c < contexts; ++c) {
    uint16_t starts[kStride] = {};
    std::memcpy(starts, cum + c * (kSymbols + 1), (kSymbols + 1) * sizeof(uint16_t));
    if (!Ascends(starts, kSymbols)) field.Refuse("to ascend from 0 to 16384 in each table");
    starts_.insert(starts_.end(), starts, starts + kStride);
  }
}

void CodedTensors::AddInputs(Call& call, napi_value tensor, const std::string& path, TensorUse use) {
  ms_mask_tensor& t = tensors_.back();
  if (t.groups * 4 % t.cols != 0) Field(call, tensor, path, "cols").Refuse("to divide 4 · groups");
  if (NeedsWeights(t.coder) || use.packed) {
    const Field field(call, tensor, path, "weights");
    Point(&ms_mask_tensor::weights, field, napi_uint16_array, "a Uint16Array or a buffer", 8 * t.groups, Access::kRead);
  }
  const Field packed_parent(call, tensor, path, "packedParent");
  if (use.changes && packed_parent.given()) {
    if (t.cols % 8 != 0) Field(call, tensor, path, "cols").Refuse("to be a multiple of 8 beside packedParent");
    Point(&ms_mask_tensor::packed_parent, packed_parent, napi_uint8_array, "a Uint8Array or a buffer", t.groups / 2 * 9,
          Access::kRead, Form::kPacked);
  } else if (NeedsParent(t.coder)) {
    const Field field(call, tensor, path, "parent");
    Point(&ms_mask_tensor::parent, field, napi_uint8_array, "a Uint8Array or a buffer", (t.groups + 1) / 2,
          Access::kRead);
  }
  if (t.coder == MS_CODER_SCALED_WEIGHTS) {
    const Field field(call, tensor, path, "scales");
    t.scales = static_cast<const int16_t*>(field.Array(napi_int16_array, "an Int16Array", t.cols));
  }
}

void CodedTensors::AddPacked(Call& call, napi_value tensor, const std::string& path) {
  ms_mask_tensor& t = tensors_.back();
  if (t.cols % 64 != 0) Field(call, tensor, path, "cols").Refuse("to be a multiple of 64");
  const Field packed(call, tensor, path, "packed");
  Point(&ms_mask_tensor::packed, packed, napi_uint8_array, "a writable buffer or a Uint8Array", t.groups / 2 * 9,
        Access::kWrite, Form::kPacked);
}

void CodedTensors::AddChanges(Call& call, napi_value tensor, const std::string& path) {
  ms_mask_tensor& t = tensors_.back();
  if (t.coder != MS_CODER_PATCH && t.coder != MS_CODER_PATCH_WEIGHTS) {
    Field(call, tensor, path, "coder").Refuse("to be one of a patch, 8 or 9");
  }
  t.changes = Field(call, tensor, path, "changes").Count(1, t.groups);
  const Field positions(call, tensor, path, "positions"), codes(call, tensor, path, "codes");
  t.positions =
      static_cast<uint32_t*>(const_cast<void*>(positions.Array(napi_uint32_array, "a Uint32Array", t.changes)));
  t.codes = static_cast<uint8_t*>(const_cast<void*>(codes.Array(napi_uint8_array, "a Uint8Array", t.changes)));
}

template <typename T>
void CodedTensors::Point(T* ms_mask_tensor::*pointer, const Field& field, napi_typedarray_type type,
                         const char* expected, int64_t bytes, Access access, Form form) {
  const Buffer memory = Memory(field, type, expected, bytes, access, form);
  ms_mask_tensor& tensor = tensors_.back();
  tensor.*pointer = reinterpret_cast<T*>(memory.data);
  if (memory.backend != nullptr && memory.backend->host_memory == 0) {
    place_ = memory.backend;
  } else if (form == Form::kPacked) {
    host_forms_.push_back(field.path_);
  } else {
    const char* at = reinterpret_cast<const char*>(&(tensor.*pointer));
    const size_t offset = static_cast<size_t>(at - reinterpret_cast<const char*>(&tensor));
    host_parts_.push_back({tensors_.size() - 1, offset, bytes, access});
  }
}

Buffer CodedTensors::Memory(const Field& field, napi_typedarray_type type, const char* expected, int64_t bytes,
                            Access access, Form form) {
  double handle = 0;
  if (napi_get_value_double(field.call_.env(), field.value_, &handle) != napi_ok) {
    const int64_t element = type == napi_uint16_array ? 2 : 1;
    void* array = const_cast<void*>(field.Array(type, expected, bytes / element));
    return {static_cast<char*>(array), static_cast<size_t>(bytes), true, 0, nullptr};
  }
  Buffer buffer;
  if (!(handle >= 1 && handle <= 9007199254740991.0) ||
      !BufferTable::Get().Pin(static_cast<uint64_t>(handle), &buffer)) {
    field.Refuse("to name a live buffer");
  }
  pinned_.push_back(buffer.slot);
  const bool on_host = buffer.backend == nullptr || buffer.backend->host_memory != 0;
  if (!on_host && !device_allowed_) field.Refuse("to be in host memory");
  if (access == Access::kWrite && !buffer.writable) field.Refuse("to be writable");
  if (form == Form::kPacked && !on_host) {
    const ms_mask_tensor& tensor = tensors_.back();
    bytes = buffer.backend->packed_bytes(tensor.groups * 4 / tensor.cols, tensor.cols);
  }
  if (static_cast<int64_t>(buffer.bytes) < bytes) {
    field.Refuse("to have " + std::to_string(bytes) + " bytes or more but received " + std::to_string(buffer.bytes));
  }
  const uintptr_t alignment = type == napi_uint16_array ? 2 : 1;
  if (reinterpret_cast<uintptr_t>(buffer.data) % alignment != 0) field.Refuse("to be aligned to its elements");
  return buffer;
}

void CodedTensors::MoveToDevice(Call& call) {
  if (place_ == nullptr) return;
  if (!host_forms_.empty()) {
    call.Fail(CallError::kType, "expected " + host_forms_[0] + " in the GPU's memory, where others of its buffers are");
  }
  for (const HostPart& part : host_parts_) {
    char* field = reinterpret_cast<char*>(&tensors_[part.tensor]) + part.field;
    void* host = nullptr;
    std::memcpy(&host, field, sizeof(host));
    void* moved = copies_.Put(call, call.Device(place_), host, part.bytes, part.access);
    std::memcpy(field, &moved, sizeof(moved));
  }
}

void CodedTensors::PointToTables() {
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (first_table_[i] >= 0) tensors_[i].starts = starts_.data() + first_table_[i];
  }
}

CodedChunks::CodedChunks(Call& call, size_t at, Place place) {
  const napi_value object = call.argument(at);
  const Field lengths(call, object, "chunks", "lengths"), checksums(call, object, "chunks", "checksums"),
      statuses(call, object, "chunks", "statuses");
  const auto* each = static_cast<const uint32_t*>(lengths.Array(napi_uint32_array, "a Uint32Array", 1));
  size_t count = 0;
  napi_get_typedarray_info(call.env(), lengths.value_, nullptr, &count, nullptr, nullptr, nullptr);
  const int64_t chunks = static_cast<int64_t>(count);
  const auto* sums = static_cast<const uint32_t*>(checksums.Array(napi_uint32_array, "a Uint32Array", chunks));
  statuses_ = static_cast<int32_t*>(const_cast<void*>(statuses.Array(napi_int32_array, "an Int32Array", chunks)));
  int64_t bytes = 0;
  chunks_.reserve(count);
  for (int64_t i = 0; i < chunks; ++i) {
    chunks_.push_back({nullptr, each[i], sums[i], MS_CHUNK_OK});
    bytes += chunks_.back().length;
  }
  const Field file(call, object, "chunks", "file");
  if (place == Place::kFileToo && file.given()) {
    FindIn(call, file);
  } else {
    PointInto(Field(call, object, "chunks", "payload"), bytes);
  }
}

void CodedChunks::PointInto(const Field& payload, int64_t bytes) {
  const auto* data = static_cast<const uint8_t*>(payload.Array(napi_uint8_array, "a Uint8Array", bytes));
  for (ms_mask_chunk& chunk : chunks_) {
    chunk.bytes = data;
    data += chunk.length;
  }
}

void CodedChunks::FindIn(Call& call, const Field& file) {
  in_file_ = true;
  file_.descriptor = static_cast<int32_t>(Field(call, file.value_, file.path_, "descriptor").Count(0, INT32_MAX));
  int64_t offset = Field(call, file.value_, file.path_, "offset").Count(0, int64_t{1} << 53);
  offsets_.reserve(chunks_.size());
  for (const ms_mask_chunk& chunk : chunks_) {
    offsets_.push_back(offset);
    offset += chunk.length;
  }
  file_.offsets = offsets_.data();
}

void CodedChunks::WriteStatuses() const {
  for (size_t i = 0; i < chunks_.size(); ++i) statuses_[i] = chunks_[i].status;
}

int64_t ChunkSteps(Call& call, size_t at) {
  const int64_t steps = call.Count(at, "chunkSteps");
  call.AtMost("chunkSteps", steps, "2^15", kMostChunkSteps);
  return steps;
}

const ms_codec_ops& HostCodec(Call& call) {
  return *call.host().backend->codec;
}

void CheckHost(Call& call, ms_status status) {
  call.Check(status, call.host());
}

napi_value JsNumber(Call& call, double value) {
  napi_value number;
  napi_create_double(call.env(), value, &number);
  return number;
}

std::vector<uint16_t> WideStarts(Call& call, size_t at, const char* name) {
  const HostArray array = call.AnyArray(at, name);
  std::vector<uint16_t> starts(kWideSymbols + 1);
  const bool fits = array.bytes == starts.size() * sizeof(uint16_t);
  if (fits) std::memcpy(starts.data(), array.data, array.bytes);
  if (!fits || !Ascends(starts.data(), kWideSymbols)) {
    call.Fail(CallError::kRange, std::string("expected ") + name + " to be 65 starts that ascend from 0 to 16384");
  }
  return starts;
}

}  // namespace maskserve
