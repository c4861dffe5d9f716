#include "check.h"

#include <cmath>
#include <cstdio>
#include <exception>

namespace maskserve {

namespace {

constexpr double kLargestInteger = 9007199254740991.0;  // 2⁵³ − 1
// Sizes above this name no matrix; below it, the product of two fits an int64_t.
constexpr int64_t kLargestCount = int64_t{1} << 31;

const char* NameOf(napi_valuetype type) {
  switch (type) {
    case napi_undefined:
      return "undefined";
    case napi_null:
      return "null";
    case napi_boolean:
      return "a boolean";
    case napi_string:
      return "a string";
    case napi_symbol:
      return "a symbol";
    case napi_function:
      return "a function";
    case napi_bigint:
      return "a bigint";
    case napi_number:
      return "a number";
    default:
      return "an object";
  }
}

const char* NameOf(napi_typedarray_type type) {
  switch (type) {
    case napi_int32_array:
      return "an Int32Array";
    case napi_float32_array:
      return "a Float32Array";
    case napi_float64_array:
      return "a Float64Array";
    default:
      return "another typed array";
  }
}

std::string Text(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.17g", value);
  return text;
}

}  // namespace

int64_t Product(int64_t a, int64_t b, int64_t c, int64_t d) {
  int64_t product = a;
  for (const int64_t factor : {b, c, d}) {
    if (__builtin_mul_overflow(product, factor, &product)) return -1;
  }
  return product;
}

Call::Call(napi_env env, napi_callback_info info, const char* op, size_t arguments)
    : env_(env), instance_(InstanceOf(env)), op_(op) {
  size_t count = kMaxArguments;
  napi_get_cb_info(env, info, &count, arguments_, nullptr, nullptr);
  if (count != arguments) {
    Fail(CallError::kType,
         "expected " + std::to_string(arguments) + " arguments but received " + std::to_string(count));
  }
}

Call::~Call() {
  while (pins_ > 0) BufferTable::Get().Unpin(pinned_[--pins_]);
  for (const uint32_t slot : more_pins_) BufferTable::Get().Unpin(slot);
}

int64_t Call::Count(size_t at, const char* name) {
  return Integer(at, name, 1);
}

int64_t Call::Index(size_t at, const char* name) {
  return Integer(at, name, 0);
}

int64_t Call::Integer(size_t at, const char* name, int64_t least) {
  double value;
  if (napi_get_value_double(env_, arguments_[at], &value) != napi_ok) {
    Fail(CallError::kType, std::string("expected ") + name + " to be a number but received " + Received(at));
  }
  if (!(value >= static_cast<double>(least)) || value > kLargestInteger || value != std::floor(value)) {
    Fail(CallError::kRange, std::string("expected ") + name + " to be an integer of at least " + std::to_string(least) +
                                " but received " + maskserve::Text(value));
  }
  return static_cast<int64_t>(value);
}

double Call::Number(size_t at, const char* name) {
  double value;
  if (napi_get_value_double(env_, arguments_[at], &value) != napi_ok) {
    Fail(CallError::kType, std::string("expected ") + name + " to be a number but received " + Received(at));
  }
  if (!std::isfinite(value)) {
    Fail(CallError::kRange, std::string("expected ") + name + " to be finite but received " + maskserve::Text(value));
  }
  return value;
}

bool Call::Flag(size_t at, const char* name) {
  bool value = false;
  if (napi_get_value_bool(env_, arguments_[at], &value) != napi_ok) {
    Fail(CallError::kType, std::string("expected ") + name + " to be a boolean but received " + Received(at));
  }
  return value;
}

double Call::Property(size_t at, const char* object, const char* name) {
  napi_valuetype type = napi_undefined;
  napi_typeof(env_, arguments_[at], &type);
  if (type != napi_object) {
    Fail(CallError::kType, std::string("expected ") + object + " to be an object but received " + Received(at));
  }
  const std::string path = std::string(object) + "." + name;
  napi_value property = nullptr;
  double value = 0;
  if (napi_get_named_property(env_, arguments_[at], name, &property) != napi_ok ||
      napi_get_value_double(env_, property, &value) != napi_ok) {
    napi_typeof(env_, property, &type);
    Fail(CallError::kType, "expected " + path + " to be a number but received " + NameOf(type));
  }
  if (!std::isfinite(value)) {
    Fail(CallError::kRange, "expected " + path + " to be finite but received " + maskserve::Text(value));
  }
  return value;
}

std::string Call::Text(size_t at, const char* name) {
  size_t length = 0;
  if (napi_get_value_string_utf8(env_, arguments_[at], nullptr, 0, &length) != napi_ok) {
    Fail(CallError::kType, std::string("expected ") + name + " to be a string but received " + Received(at));
  }
  std::string text(length + 1, '\0');
  napi_get_value_string_utf8(env_, arguments_[at], &text[0], text.size(), &length);
  text.resize(length);
  return text;
}

Buffer Call::Handle(size_t at, const char* name) {
  double value;
  if (napi_get_value_double(env_, arguments_[at], &value) != napi_ok) {
    Fail(CallError::kType, std::string("expected ") + name + " to be a buffer handle but received " + Received(at));
  }
  const Buffer buffer = Open(value, name);
  pinned_[pins_++] = buffer.slot;
  return buffer;
}

Buffer Call::Pin(double handle, const char* name) {
  const Buffer buffer = Open(handle, name);
  more_pins_.push_back(buffer.slot);
  return buffer;
}

std::vector<Buffer> Call::Buffers(size_t at, const char* name, const char* count_name, int64_t count) {
  const HostArray array = Array(at, name, napi_float64_array);
  if (static_cast<int64_t>(array.length) != count) {
    Fail(CallError::kRange, std::string("expected ") + name + ".length to be " + count_name + " = " +
                                std::to_string(count) + " but received " + std::to_string(array.length));
  }
  // A copy: what was checked is what is used, though the array be shared with another thread.
  const auto* begin = static_cast<const double*>(array.data);
  const std::vector<double> handles(begin, begin + array.length);
  std::vector<Buffer> buffers;
  buffers.reserve(handles.size());
  for (size_t i = 0; i < handles.size(); ++i) {
    if (i > 0 && handles[i] == handles[i - 1]) {
      buffers.push_back(buffers.back());
    } else {
      buffers.push_back(handles[i] == 0 ? Buffer{nullptr, 0, false, 0, nullptr} : Pin(handles[i], name));
      if (handles[i] != 0) Reachable(buffers.back(), name);
    }
  }
  return buffers;
}

Buffer Call::Open(double handle, const char* name) const {
  Buffer buffer;
  if (!(handle >= 1 && handle <= kLargestInteger && handle == std::floor(handle)) ||
      !BufferTable::Get().Pin(static_cast<uint64_t>(handle), &buffer)) {
    Fail(CallError::kType, std::string("expected ") + name + " to name a live buffer but received " +
                               maskserve::Text(handle) + " (never allocated, or freed)");
  }
  return buffer;
}

void* Call::Bytes(size_t at, const char* name, Access access, int64_t bytes, const char* formula, size_t alignment,
                  Presence presence) {
  double value;
  if (presence == Presence::kOptional && napi_get_value_double(env_, arguments_[at], &value) == napi_ok && value == 0) {
    return nullptr;
  }
  const Buffer buffer = Handle(at, name);
  if (access == Access::kWrite && !buffer.writable) {
    Fail(CallError::kType, std::string("expected ") + name + " to be writable but received a read-only mapping");
  }
  Reachable(buffer, name);
  if (bytes < 0 || static_cast<uint64_t>(bytes) > buffer.bytes) {
    const std::string wanted = bytes < 0 ? std::string("more than 2⁶³") : std::to_string(bytes);
    Fail(CallError::kRange, std::string("expected ") + name + " of at least " + formula + " = " + wanted +
                                " bytes but received " + std::to_string(buffer.bytes));
  }
  if (reinterpret_cast<uintptr_t>(buffer.data) % alignment != 0) {
    Fail(CallError::kRange, std::string("expected ") + name + " aligned to " + std::to_string(alignment) +
                                " bytes but received one that begins " +
                                std::to_string(reinterpret_cast<uintptr_t>(buffer.data) % alignment) + " past it");
  }
  return buffer.data;
}

HostArray Call::Array(size_t at, const char* name, napi_typedarray_type type) {
  bool is_typed_array = false;
  napi_is_typedarray(env_, arguments_[at], &is_typed_array);
  napi_typedarray_type actual = napi_int8_array;
  HostArray array{};
  if (is_typed_array) {
    napi_get_typedarray_info(env_, arguments_[at], &actual, &array.length, &array.data, nullptr, nullptr);
  }
  if (!is_typed_array || actual != type) {
    Fail(CallError::kType, std::string("expected ") + name + " to be " + NameOf(type) + " but received " +
                               (is_typed_array ? std::string(NameOf(actual)) : Received(at)));
  }
  if (static_cast<int64_t>(array.length) > kLargestCount) {
    Fail(CallError::kRange, std::string("expected ") + name + " of at most 2³¹ elements");
  }
  array.bytes = array.length * (type == napi_float64_array ? 8 : 4);
  return array;
}

HostArray Call::AnyArray(size_t at, const char* name) {
  static constexpr size_t kElementBytes[] = {1, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8};
  bool is_typed_array = false, is_data_view = false;
  napi_is_typedarray(env_, arguments_[at], &is_typed_array);
  napi_is_dataview(env_, arguments_[at], &is_data_view);
  HostArray array{};
  if (is_typed_array) {
    napi_typedarray_type type;
    napi_get_typedarray_info(env_, arguments_[at], &type, &array.length, &array.data, nullptr, nullptr);
    if (static_cast<size_t>(type) >= sizeof(kElementBytes) / sizeof(kElementBytes[0])) is_typed_array = false;
    array.bytes = is_typed_array ? array.length * kElementBytes[type] : 0;
  } else if (is_data_view) {
    napi_get_dataview_info(env_, arguments_[at], &array.bytes, &array.data, nullptr, nullptr);
    array.length = array.bytes;
  }
  if (!is_typed_array && !is_data_view) {
    Fail(CallError::kType,
         std::string("expected ") + name + " to be a typed array or DataView but received " + Received(at));
  }
  return array;
}

std::vector<int32_t> Call::Counts(size_t at, const char* name, int32_t least) {
  const HostArray array = Array(at, name, napi_int32_array);
  const auto* begin = static_cast<const int32_t*>(array.data);
  const std::vector<int32_t> counts(begin, begin + array.length);
  for (const int32_t count : counts) {
    if (count >= least) continue;
    Fail(CallError::kRange, std::string("expected ") + name + " of at least " + std::to_string(least) +
                                " but received " + std::to_string(count));
  }
  return counts;
}

std::vector<int32_t> Call::Ids(size_t at, int64_t vocab) {
  const HostArray array = Array(at, "ids", napi_int32_array);
  const auto* begin = static_cast<const int32_t*>(array.data);
  const std::vector<int32_t> ids(begin, begin + array.length);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab) continue;
    Fail(CallError::kRange, "expected ids in [0, V = " + std::to_string(vocab) + ") but received " +
                                std::to_string(ids[i]) + " at " + std::to_string(i));
  }
  return ids;
}

void Call::Apart(const char* out_name, const void* out, int64_t out_bytes, const char* in_name, const void* in,
                 int64_t in_bytes) const {
  const char *a = static_cast<const char*>(out), *b = static_cast<const char*>(in);
  if (a == nullptr || b == nullptr || a + out_bytes <= b || b + in_bytes <= a) return;
  Fail(CallError::kRange,
       std::string("expected ") + out_name + " and " + in_name + " to be apart but received overlapping buffers");
}

void Call::AtMost(const char* name, int64_t value, const char* limit_name, int64_t limit) const {
  if (value <= limit) return;
  Fail(CallError::kRange, std::string("expected ") + name + " of at most " + limit_name + " = " +
                              std::to_string(limit) + " but received " + std::to_string(value));
}

void Call::Require(bool holds, const char* name, const char* expected, double value) const {
  if (holds) return;
  Fail(CallError::kRange, std::string("expected ") + name + " " + expected + " but received " + maskserve::Text(value));
}

void Call::Reachable(const Buffer& buffer, const char* name) const {
  const ms_backend& mine = backend();
  if (mine.host_memory != 0 ? buffer.backend == nullptr || buffer.backend->host_memory != 0 : buffer.backend == &mine) {
    return;
  }
  const auto place = [](const ms_backend* of) {
    return of == nullptr || of->host_memory != 0 ? std::string("host memory") : std::string(of->name) + " memory";
  };
  Fail(CallError::kType, std::string("expected ") + name + " in " + place(&mine) + " but received a buffer in " +
                             place(buffer.backend) + "; native.copy takes it there");
}

void Call::RunOn(const ms_backend* backend) {
  if (backend != nullptr) Usable(instance_->Of(backend));
  instance_->on_device = backend != nullptr;
}

const Runner& Call::Usable(const Runner& runner) const {
  if (runner.context != nullptr) return runner;
  Fail(CallError::kRange,
       std::string("expected room for a thread's state on ") + runner.backend->name + " but it has none to give");
}

void Call::Check(ms_status status, const Runner& of) const {
  if (status == MS_OK) return;
  Fail(status == MS_UNSUPPORTED ? CallError::kType : CallError::kRange, of.backend->last_error(of.context));
}

void Call::Fail(CallError::Kind kind, const std::string& message) const {
  throw CallError{kind, std::string(op_) + ": " + message};
}

std::string Call::Received(size_t at) const {
  napi_valuetype type = napi_undefined;
  napi_typeof(env_, arguments_[at], &type);
  return NameOf(type);
}

napi_value Run(napi_env env, napi_callback_info info, Op op, size_t arguments) {
  void* name = nullptr;
  napi_get_cb_info(env, info, nullptr, nullptr, nullptr, &name);
  try {
    Call call(env, info, static_cast<const char*>(name), arguments);
    return op(call);
  } catch (const CallError& error) {
    if (error.kind == CallError::kType) {
      napi_throw_type_error(env, nullptr, error.message.c_str());
    } else if (error.kind == CallError::kRange) {
      napi_throw_range_error(env, nullptr, error.message.c_str());
    } else {
      napi_throw_error(env, nullptr, error.message.c_str());
    }
  } catch (const std::exception& error) {
    napi_throw_error(env, nullptr, (std::string(static_cast<const char*>(name)) + ": " + error.what()).c_str());
  }
  return nullptr;
}

void ExportAll(napi_env env, napi_value exports, const Export* list, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    napi_value function;
    napi_create_function(env, list[i].name, NAPI_AUTO_LENGTH, list[i].callback, const_cast<char*>(list[i].name),
                         &function);
    napi_set_named_property(env, exports, list[i].name, function);
  }
}

}  // namespace maskserve
