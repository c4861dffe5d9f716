#include "read_file.h"

#include <errno.h>
#include <unistd.h>

#include <cstring>

namespace maskserve {

void ReadFileBytes(int32_t descriptor, int64_t offset, void* to, int64_t bytes) {
  char* out = static_cast<char*>(to);
  int64_t done = 0;
  while (done < bytes) {
    const ssize_t got = pread(descriptor, out + done, static_cast<size_t>(bytes - done), offset + done);
    if (got > 0) {
      done += got;
    } else if (got == 0 || errno != EINTR) {
      break;
    }
  }
  std::memset(out + done, 0, static_cast<size_t>(bytes - done));
}

}  // namespace maskserve
