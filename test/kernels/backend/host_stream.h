// A stream of host_runtime.cpp, as what stands in for NVIDIA's libraries sees it: work is put at its end.
#pragma once

#include <functional>

struct CUstream_st {
  virtual void Put(std::function<void()> work) = 0;

 protected:
  ~CUstream_st() = default;
};
