// Arguments of a call from JavaScript: the one place where they are read and checked.
//
// Every reader names the op and the argument in its error: "matmul: expected w of at least N·K·2 = 1024 bytes but
// received 512". What it returns is safe to hand to a backend.
#pragma once

#include <node_api.h>

#include <cstdint>
#include <string>
#include <vector>

#include "buffers.h"
#include "instance.h"

namespace maskserve {

// Thrown by the readers, turned into a JavaScript exception by Bind.
struct CallError {
  enum Kind { kType, kRange, kPlain } kind;
  std::string message;
};

// A typed array or DataView: the host's memory, valid during the call.
struct HostArray {
  void* data;
  size_t length;  // elements
  size_t bytes;
};

// a · b · … or −1 when it does not fit: a size that no buffer reaches.
int64_t Product(int64_t a, int64_t b, int64_t c = 1, int64_t d = 1);

enum class Access { kRead, kWrite };
enum class Presence { kRequired, kOptional };

class Call {
 public:
  Call(napi_env env, napi_callback_info info, const char* op, size_t arguments);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  napi_env env() const { return env_; }
  napi_value argument(size_t at) const { return arguments_[at]; }
  // What ops run on.
  ms_context* context() const { return instance_->current().context; }
  const ms_backend& backend() const { return *instance_->current().backend; }
  const ms_ops& ops() const { return instance_->current().backend->ops; }
  // The CPU, whatever ops run on.
  const Runner& host() const { return instance_->host; }
  // What runs on `backend`, which some buffer belongs to.
  const Runner& Device(const ms_backend* backend) const { return Usable(instance_->Of(backend)); }
  // What reads and writes the memory of `buffer`.
  const Runner& OwnerOf(const Buffer& buffer) const { return Usable(instance_->Of(buffer.backend)); }
  // Recorded steps of this thread.
  Instance& instance() const { return *instance_; }
  // Ops of this thread run on `backend` from now on (NULL: the CPU).
  void RunOn(const ms_backend* backend);

  // Integers; Count is at least 1, Index at least 0.
  int64_t Count(size_t at, const char* name);
  int64_t Index(size_t at, const char* name);
  // Any finite number.
  double Number(size_t at, const char* name);
  bool Flag(size_t at, const char* name);
  // The same of the property `name` of argument `at`, an object called `object`.
  double Property(size_t at, const char* object, const char* name);
  std::string Text(size_t at, const char* name);

  // A buffer of at least `bytes`, which `formula` spells out; aligned to `alignment`. Pinned until the call ends.
  Buffer Handle(size_t at, const char* name);
  // The same of a handle that is not an argument itself.
  Buffer Pin(double handle, const char* name);
  // `count` buffers, by an array of their handles; 0 gives one without data.
  std::vector<Buffer> Buffers(size_t at, const char* name, const char* count_name, int64_t count);
  template <typename T>
  T* Data(size_t at, const char* name, Access access, int64_t bytes, const char* formula, size_t alignment = alignof(T),
          Presence presence = Presence::kRequired) {
    return static_cast<T*>(Bytes(at, name, access, bytes, formula, alignment, presence));
  }
  HostArray Array(size_t at, const char* name, napi_typedarray_type type);
  HostArray AnyArray(size_t at, const char* name);
  // An Int32Array of numbers of at least `least`. A copy, as of ids.
  std::vector<int32_t> Counts(size_t at, const char* name, int32_t least);
  // Token ids in [0, vocab). A copy: what was checked is what is used, though the array be shared with another thread.
  std::vector<int32_t> Ids(size_t at, int64_t vocab);

  // Refuses an output that shares bytes with an input (pass the sizes that were checked).
  void Apart(const char* out_name, const void* out, int64_t out_bytes, const char* in_name, const void* in,
             int64_t in_bytes) const;
  // value ≤ limit, for positions and ids.
  void AtMost(const char* name, int64_t value, const char* limit_name, int64_t limit) const;
  // Refuses a condition on `name`, which was `value`: "expected `name` `expected` but received `value`".
  void Require(bool holds, const char* name, const char* expected, double value) const;

  // Refuses memory that the ops of this thread can't reach.
  void Reachable(const Buffer& buffer, const char* name) const;

  // Throws the backend's error, prefixed with the op.
  void Check(ms_status status) const { Check(status, instance_->current()); }
  void Check(ms_status status, const Runner& of) const;
  [[noreturn]] void Fail(CallError::Kind kind, const std::string& message) const;

 private:
  static constexpr size_t kMaxArguments = 16;

  void* Bytes(size_t at, const char* name, Access access, int64_t bytes, const char* formula, size_t alignment,
              Presence presence);
  Buffer Open(double handle, const char* name) const;
  const Runner& Usable(const Runner& runner) const;
  int64_t Integer(size_t at, const char* name, int64_t least);
  std::string Received(size_t at) const;

  napi_env env_;
  Instance* instance_;
  const char* op_;
  napi_value arguments_[kMaxArguments];
  uint32_t pinned_[kMaxArguments];
  size_t pins_ = 0;
  std::vector<uint32_t> more_pins_;
};

// The JavaScript function for `op`, which has `Arguments` arguments: errors become exceptions, named after the
// function.
using Op = napi_value (*)(Call& call);
napi_value Run(napi_env env, napi_callback_info info, Op op, size_t arguments);

template <Op op, size_t Arguments>
napi_value Bind(napi_env env, napi_callback_info info) {
  return Run(env, info, op, Arguments);
}

// Adds a function to the addon's exports.
struct Export {
  const char* name;
  napi_callback callback;
};

void ExportAll(napi_env env, napi_value exports, const Export* list, size_t count);

}  // namespace maskserve
