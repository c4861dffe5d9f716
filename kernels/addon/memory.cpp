// Buffers: alloc, mapFile, view, free, byteLength, read, write, zero, usage.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "bindings.h"
#include "buffers.h"
#include "check.h"

namespace maskserve {

namespace {

napi_value Double(napi_env env, double value) {
  napi_value number;
  napi_create_double(env, value, &number);
  return number;
}

// What this machine has: more than that is a mistake, though the system might promise it.
int64_t PhysicalBytes() {
  return Product(static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)), static_cast<int64_t>(sysconf(_SC_PAGESIZE)));
}

napi_value Alloc(Call& call) {
  const int64_t bytes = call.Index(0, "bytes");
  const int64_t machine = PhysicalBytes();
  if (machine > 0) call.AtMost("bytes", bytes, "this machine's memory", machine);
  const uint64_t handle = BufferTable::Get().Allocate(&call.backend(), static_cast<size_t>(bytes));
  if (handle == 0) {
    call.Fail(CallError::kRange,
              "expected room for " + std::to_string(bytes) + " bytes but the system has none to give");
  }
  return Double(call.env(), static_cast<double>(handle));
}

class File {
 public:
  explicit File(const char* path) : descriptor_(open(path, O_RDONLY | O_CLOEXEC)) {}
  ~File() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int descriptor() const { return descriptor_; }

 private:
  int descriptor_;
};

napi_value MapFile(Call& call) {
  const std::string path = call.Text(0, "path");
  const int64_t offset = call.Index(1, "offset"), bytes = call.Index(2, "bytes");
  const auto refuse = [&] { call.Fail(CallError::kPlain, "cannot map " + path + ": " + std::strerror(errno)); };
  if (path.find('\0') != std::string::npos) call.Fail(CallError::kRange, "expected path without NUL characters");
  const File file(path.c_str());
  struct stat status;
  if (file.descriptor() < 0 || fstat(file.descriptor(), &status) != 0) refuse();
  if (!S_ISREG(status.st_mode)) call.Fail(CallError::kPlain, "cannot map " + path + ": not a regular file");
  if (bytes > status.st_size || offset > status.st_size - bytes) {
    call.Fail(CallError::kRange, "expected bytes [" + std::to_string(offset) + ", +" + std::to_string(bytes) +
                                     ") inside " + path + " but it has " + std::to_string(status.st_size));
  }
  const int64_t page = sysconf(_SC_PAGESIZE);
  const size_t before = static_cast<size_t>(offset % page);
  const size_t mapped = bytes > 0 ? static_cast<size_t>(bytes) + before : 0;
  void* mapping = nullptr;
  if (mapped > 0) {
    mapping = mmap(nullptr, mapped, PROT_READ, MAP_PRIVATE, file.descriptor(), offset - static_cast<int64_t>(before));
    if (mapping == MAP_FAILED) refuse();
  }
  const uint64_t handle = BufferTable::Get().AdoptMapping(mapping, mapped, before, static_cast<size_t>(bytes));
  if (handle == 0) {
    if (mapped > 0) munmap(mapping, mapped);
    call.Fail(CallError::kRange, "expected a free buffer slot but 2²⁴ buffers are live");
  }
  return Double(call.env(), static_cast<double>(handle));
}

// [offset, offset + bytes) lies inside the buffer.
void Inside(const Call& call, const char* name, const Buffer& buffer, int64_t offset, int64_t bytes) {
  const int64_t length = static_cast<int64_t>(buffer.bytes);
  if (bytes <= length && offset <= length - bytes) return;
  call.Fail(CallError::kRange, "expected bytes [" + std::to_string(offset) + ", +" + std::to_string(bytes) +
                                   ") inside " + name + " but it has " + std::to_string(length));
}

napi_value View(Call& call) {
  const Buffer base = call.Handle(0, "base");
  const int64_t offset = call.Index(1, "byteOffset"), bytes = call.Index(2, "bytes");
  Inside(call, "base", base, offset, bytes);
  const uint64_t handle = BufferTable::Get().View(base, static_cast<size_t>(offset), static_cast<size_t>(bytes));
  if (handle == 0) call.Fail(CallError::kRange, "expected a free buffer slot but 2²⁴ buffers are live");
  return Double(call.env(), static_cast<double>(handle));
}

napi_value Free(Call& call) {
  const double handle = call.Number(0, "buffer");
  if (handle < 1 || handle > 9007199254740991.0 || !BufferTable::Get().Free(static_cast<uint64_t>(handle))) {
    call.Fail(CallError::kType, "expected buffer to name a live buffer but received one never allocated, or freed");
  }
  return nullptr;
}

napi_value ByteLength(Call& call) {
  return Double(call.env(), static_cast<double>(call.Handle(0, "buffer").bytes));
}

napi_value Read(Call& call) {
  const Buffer buffer = call.Handle(0, "buffer");
  const int64_t offset = call.Index(1, "byteOffset");
  const HostArray into = call.AnyArray(2, "into");
  Inside(call, "buffer", buffer, offset, static_cast<int64_t>(into.bytes));
  if (into.bytes > 0) {
    call.Check(call.backend().download(call.context(), into.data, buffer.data + offset, into.bytes));
  }
  return nullptr;
}

Buffer Writable(Call& call) {
  const Buffer buffer = call.Handle(0, "buffer");
  if (!buffer.writable) {
    call.Fail(CallError::kType, "expected buffer to be writable but received a read-only mapping");
  }
  return buffer;
}

napi_value Write(Call& call) {
  const Buffer buffer = Writable(call);
  const int64_t offset = call.Index(1, "byteOffset");
  const HostArray from = call.AnyArray(2, "from");
  Inside(call, "buffer", buffer, offset, static_cast<int64_t>(from.bytes));
  if (from.bytes > 0) {
    call.Check(call.backend().upload(call.context(), buffer.data + offset, from.data, from.bytes));
  }
  return nullptr;
}

napi_value Zero(Call& call) {
  const Buffer buffer = Writable(call);
  call.Check(call.backend().zero(call.context(), buffer.data, buffer.bytes));
  return nullptr;
}

napi_value ReadThrough(Call& call) {
  const Buffer buffer = call.Handle(0, "buffer");
  uint64_t sum = 0;
  if (buffer.bytes > 0) {
    call.Check(call.ops().read_through(call.context(), buffer.data, static_cast<int64_t>(buffer.bytes), &sum));
  }
  return Double(call.env(), static_cast<double>(static_cast<uint32_t>(sum ^ sum >> 32)));
}

napi_value Usage(Call& call) {
  const BufferUsage usage = BufferTable::Get().Usage();
  napi_env env = call.env();
  napi_value object;
  napi_create_object(env, &object);
  napi_set_named_property(env, object, "buffers", Double(env, static_cast<double>(usage.buffers)));
  napi_set_named_property(env, object, "bytes", Double(env, static_cast<double>(usage.bytes)));
  napi_set_named_property(env, object, "mappedBytes", Double(env, static_cast<double>(usage.mapped_bytes)));
  return object;
}

}  // namespace

void ExportBuffers(napi_env env, napi_value exports) {
  const Export list[] = {
      {"alloc", Bind<Alloc, 1>},
      {"mapFile", Bind<MapFile, 3>},
      {"view", Bind<View, 3>},
      {"free", Bind<Free, 1>},
      {"byteLength", Bind<ByteLength, 1>},
      {"read", Bind<Read, 3>},
      {"write", Bind<Write, 3>},
      {"zero", Bind<Zero, 1>},
      {"readThrough", Bind<ReadThrough, 1>},
      {"usage", Bind<Usage, 0>},
  };
  ExportAll(env, exports, list, sizeof(list) / sizeof(list[0]));
}

}  // namespace maskserve
