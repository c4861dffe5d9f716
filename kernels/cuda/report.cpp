// What was looked for, found and refused, as JSON: maskctl doctor's source.

#include "report.h"

#include <cstdio>

#include "cublaslt.h"
#include "cusparselt.h"
#include "device.h"
#include "overlap.h"
#include "sparse_gemm.h"

namespace maskserve {
namespace cuda {

namespace {

std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\u%04x", static_cast<unsigned>(c));
      out += escape;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string QuotedOrNull(const std::string& text) {
  return text.empty() ? "null" : Quoted(text);
}

std::string Part(const char* name, const FoundLibrary& found) {
  std::string refused;
  for (const Refusal& refusal : found.refused) {
    refused += (refused.empty() ? "" : ",") + ("{\"at\":" + Quoted(refusal.at)) +
               ",\"reason\":" + Quoted(refusal.reason) + "}";
  }
  return "{\"name\":" + Quoted(name) + ",\"version\":" + QuotedOrNull(found.version) +
         ",\"file\":" + QuotedOrNull(found.file) + ",\"refused\":[" + refused +
         "],\"warning\":" + QuotedOrNull(found.warning) + "}";
}

// With what the self-test said, which runs where there is a GPU.
FoundLibrary Sparse(const DeviceSearch& search) {
  FoundLibrary found = sparselt::Find();
  if (search.usable && !FormRemark().empty()) {
    found.warning += (found.warning.empty() ? "" : "; ") + FormRemark();
  }
  return found;
}

// The driver as a part like the libraries.
FoundLibrary Driver(const DeviceSearch& search) {
  FoundLibrary driver{nullptr, search.driver_version, "", "", {}};
  if (!search.usable) driver.refused.push_back({"libcuda.so.1", search.reason});
  return driver;
}

std::string ArchitectureList() {
  std::string list = "[\"";
  for (const char* c = Architectures(); *c != '\0'; ++c) {
    if (*c == ',') {
      list += "\",\"";
    } else {
      list += *c;
    }
  }
  return list + "\"]";
}

std::string Device(const DeviceSearch& search) {
  if (!search.has_device) return "null";
  const DeviceFacts& device = search.device;
  return "{\"name\":" + Quoted(device.name) + ",\"architecture\":" + Quoted(device.architecture) +
         ",\"totalBytes\":" + std::to_string(device.total_bytes) +
         ",\"freeBytes\":" + std::to_string(device.free_bytes) +
         ",\"multiprocessors\":" + std::to_string(device.multiprocessors) +
         ",\"clockKHz\":" + std::to_string(device.clock_khz) +
         ",\"memoryClockKHz\":" + std::to_string(device.memory_clock_khz) + "}";
}

std::string OverlapOf(const DeviceSearch& search) {
  if (!search.usable) return "null";
  const Overlap& overlap = ProvenOverlap();
  return std::string("{\"used\":") + (overlap.used ? "true" : "false") + ",\"reason\":" + QuotedOrNull(overlap.reason) +
         "}";
}

}  // namespace

std::string Report() {
  const DeviceSearch& search = FindDevice();
  return std::string("{\"runtime\":") + Quoted(RuntimeVersion()) + ",\"architectures\":" + ArchitectureList() +
         ",\"device\":" + Device(search) + ",\"overlap\":" + OverlapOf(search) + ",\"parts\":[" +
         Part("driver", Driver(search)) + "," + Part("cuSPARSELt", Sparse(search)) + "," +
         Part("cuBLASLt", blaslt::Find()) + "]}";
}

}  // namespace cuda
}  // namespace maskserve
