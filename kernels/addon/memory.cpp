// Buffers: alloc, allocHost, mapFile, view, free, byteLength, read, write, copy, zero, usage.

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

napi_value AllocOf(Call& call, const ms_backend& backend) {
  const int64_t bytes = call.Index(0, "bytes");
  const int64_t machine = PhysicalBytes();
  if (machine > 0 && backend.host_memory != 0) call.AtMost("bytes", bytes, "this machine's memory", machine);
  const uint64_t handle = BufferTable::Get().Allocate(&backend, static_cast<size_t>(bytes));
  if (handle == 0) {
    call.Fail(CallError::kRange, "expected room for " + std::to_string(bytes) + " bytes but " +
                                     (backend.device != nullptr ? backend.device : "the system") + " has none to give");
  }
  return Double(call.env(), static_cast<double>(handle));
}

napi_value Alloc(Call& call) {
  return AllocOf(call, call.backend());
}

napi_value AllocHost(Call& call) {
  return AllocOf(call, *call.host().backend);
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
    const Runner& owner = call.OwnerOf(buffer);
    call.Check(owner.backend->download(owner.context, into.data, buffer.data + offset, into.bytes), owner);
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
    const Runner& owner = call.OwnerOf(buffer);
    call.Check(owner.backend->upload(owner.context, buffer.data + offset, from.data, from.bytes), owner);
  }
  return nullptr;
}

bool OnHost(const Buffer& buffer) {
  return buffer.backend == nullptr || buffer.backend->host_memory != 0;
}

// Both ends in host memory, or in the same device's, or one in each.
napi_value Copy(Call& call) {
  const Buffer to = Writable(call);
  const int64_t at = call.Index(1, "byteOffset");
  const Buffer from = call.Handle(2, "from");
  const int64_t of = call.Index(3, "fromOffset"), bytes = call.Index(4, "bytes");
  Inside(call, "buffer", to, at, bytes);
  Inside(call, "from", from, of, bytes);
  call.Apart("buffer", to.data + at, bytes, "from", from.data + of, bytes);
  if (bytes == 0) return nullptr;
  const Runner& owner = call.OwnerOf(OnHost(to) ? from : to);
  const ms_backend& backend = *owner.backend;
  const auto copy = OnHost(to) == OnHost(from) ? backend.copy : OnHost(from) ? backend.upload : backend.download;
  call.Check(copy(owner.context, to.data + at, from.data + of, static_cast<size_t>(bytes)), owner);
  return nullptr;
}

napi_value Zero(Call& call) {
  const Buffer buffer = Writable(call);
  const Runner& owner = call.OwnerOf(buffer);
  call.Check(owner.backend->zero(owner.context, buffer.data, buffer.bytes), owner);
  return nullptr;
}

napi_value ReadThrough(Call& call) {
  const Buffer buffer = call.Handle(0, "buffer");
  uint64_t sum = 0;
  if (buffer.bytes > 0) {
    const Runner& owner = call.OwnerOf(buffer);
    const int64_t bytes = static_cast<int64_t>(buffer.bytes);
    call.Check(owner.backend->ops.read_through(owner.context, buffer.data, bytes, &sum), owner);
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
      {"allocHost", Bind<AllocHost, 1>},
      {"mapFile", Bind<MapFile, 3>},
      {"view", Bind<View, 3>},
      {"free", Bind<Free, 1>},
      {"byteLength", Bind<ByteLength, 1>},
      {"read", Bind<Read, 3>},
      {"write", Bind<Write, 3>},
      {"copy", Bind<Copy, 5>},
      {"zero", Bind<Zero, 1>},
      {"readThrough", Bind<ReadThrough, 1>},
      {"usage", Bind<Usage, 0>},
  };
  ExportAll(env, exports, list, sizeof(list) / sizeof(list[0]));
}

}  // namespace maskserve
