// What the codec's functions take: tensors and chunks as JavaScript objects (../codec-types.ts), read and checked.
#pragma once

#include <string>
#include <vector>

#include "check.h"
#include "device_copies.h"

namespace maskserve {

// One property of an object, named in errors as `object.name`.
class Field {
 public:
  Field(Call& call, napi_value object, const std::string& path, const char* name);

  bool given() const { return given_; }
  int64_t Count(int64_t least, int64_t most) const;
  // A typed array of at least `elements`; elements of 1, 2 or 4 bytes.
  const void* Array(napi_typedarray_type type, const char* expected, int64_t elements) const;

 private:
  friend class CodedTensors;
  friend class CodedChunks;
  [[noreturn]] void Refuse(const std::string& expected) const;

  Call& call_;
  napi_value value_ = nullptr;
  std::string path_;
  bool given_ = false;
};

// Which properties of a tensor are used, beside coder, groups and cols; `device`: its memory may be a device's, and
// then what of it lies in the host's is copied there.
struct TensorUse {
  bool tables, mask, mask_optional, changes, device, packed;
};

// Tensors with copies of their tables; buffers stay pinned and arrays referenced while this lives.
class CodedTensors {
 public:
  CodedTensors(Call& call, size_t at, TensorUse use);
  // A single tensor.
  CodedTensors(Call& call, TensorUse use, napi_value tensor);
  ~CodedTensors();
  CodedTensors(const CodedTensors&) = delete;
  CodedTensors& operator=(const CodedTensors&) = delete;

  const ms_mask_tensor* data() const { return tensors_.data(); }
  int64_t count() const { return static_cast<int64_t>(tensors_.size()); }
  // Of all tensors.
  int64_t steps() const;
  // Throws unless all coders are of symbols, 2 to 7; unless all are the same.
  void RequireSymbolCoders(Call& call) const;
  void RequireOneCoder(Call& call) const;
  // Whole tensors until a chunk has at least `full` changes (FORMAT.md §9): where each chunk's tensors start, and an
  // end.
  std::vector<int64_t> PatchChunks(int64_t full) const;
  // Whose memory the masks, weights and parents are, or have been copied to; NULL: the host's.
  const ms_backend* place() const { return place_; }
  // Masks of the host that a device has written come back.
  void FetchMasks(Call& call) { copies_.Fetch(call); }

 private:
  // A pointer of a tensor to memory of the host.
  struct HostPart {
    size_t tensor, field;  // the pointer's offset in ms_mask_tensor
    int64_t bytes;
    Access access;
  };
  enum class Form { kPlain, kPacked };

  void Add(Call& call, napi_value tensor, const std::string& path, TensorUse use);
  void AddTables(Call& call, napi_value tensor, const std::string& path);
  void AddInputs(Call& call, napi_value tensor, const std::string& path, TensorUse use);
  void AddPacked(Call& call, napi_value tensor, const std::string& path);
  void AddChanges(Call& call, napi_value tensor, const std::string& path);
  // Points `pointer` of the last tensor to a handle's buffer, or a typed array, of at least `bytes`. kPacked: as its
  // backend's compress24 wrote it, of as many bytes as that says.
  template <typename T>
  void Point(T* ms_mask_tensor::*pointer, const Field& field, napi_typedarray_type type, const char* expected,
             int64_t bytes, Access access, Form form = Form::kPlain);
  Buffer Memory(const Field& field, napi_typedarray_type type, const char* expected, int64_t bytes, Access access,
                Form form);
  void PointToTables();
  // Where any memory is a device's, all of it is to be.
  void MoveToDevice(Call& call);

  std::vector<ms_mask_tensor> tensors_;
  std::vector<uint16_t> starts_;
  std::vector<int64_t> first_table_;  // of each tensor, −1: none
  std::vector<uint32_t> pinned_;
  std::vector<HostPart> host_parts_;
  std::vector<std::string> host_forms_;  // paths of packed matrices in the host's memory: no device reads those
  DeviceCopies copies_;
  bool device_allowed_ = false;
  const ms_backend* place_ = nullptr;
};

// { payload, lengths, checksums, statuses }: chunks one after the other in `payload`; or, where those may be in a file,
// { file: { descriptor, offset }, … }.
class CodedChunks {
 public:
  enum class Place { kMemory, kFileToo };

  CodedChunks(Call& call, size_t at, Place place = Place::kMemory);

  ms_mask_chunk* data() { return chunks_.data(); }
  int64_t count() const { return static_cast<int64_t>(chunks_.size()); }
  // NULL: the chunks are in memory.
  const ms_chunk_file* file() const { return in_file_ ? &file_ : nullptr; }
  void WriteStatuses() const;

 private:
  void PointInto(const Field& payload, int64_t bytes);
  void FindIn(Call& call, const Field& file);

  std::vector<ms_mask_chunk> chunks_;
  bool in_file_ = false;
  ms_chunk_file file_ = {};
  std::vector<int64_t> offsets_;
  int32_t* statuses_ = nullptr;
};

// Argument `at`: steps of a chunk.
int64_t ChunkSteps(Call& call, size_t at);
// The CPU's coders, and a check of what they return: what ops run on does not matter.
const ms_codec_ops& HostCodec(Call& call);
void CheckHost(Call& call, ms_status status);
napi_value JsNumber(Call& call, double value);

// 65 starts that ascend from 0 to 2^14.
std::vector<uint16_t> WideStarts(Call& call, size_t at, const char* name);

}  // namespace maskserve
