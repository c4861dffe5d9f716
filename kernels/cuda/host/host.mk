# make cuda-host: the kernels of cuda/*.cu compiled for the host against host/execution.h, with their cases of
# ../test/kernels/cuda, as $(OUT)/cuda-host/cases. Linked with the CPU backend, which they are compared with.
# HOST_FLAGS="-O1 -g -fsanitize=address,undefined" and another OUT: the same under sanitizers.

CUDA_HOST := $(OUT)/cuda-host
HOST_FLAGS ?= -O1
CUDA_HOST_OBJECTS := $(patsubst cuda/%.cu,$(CUDA_HOST)/%.o,$(wildcard cuda/*.cu)) \
  $(patsubst cuda/host/%.cpp,$(CUDA_HOST)/host/%.o,$(wildcard cuda/host/*.cpp)) \
  $(patsubst ../test/kernels/cuda/%.cpp,$(CUDA_HOST)/test/%.o,$(wildcard ../test/kernels/cuda/*.cpp)) \
  $(CUDA_HOST)/test/fuzz_codec_inputs.o
COMPILE_HOST = mkdir -p $(@D) && $(CXX) -std=c++17 $(HOST_FLAGS) -ffp-contract=off -fno-strict-aliasing -Wall -Wextra \
  -Wno-unknown-pragmas $(WERROR) $(CPPFLAGS) -c -o $@

.PHONY: cuda-host
cuda-host: $(CUDA_HOST)/cases

$(CUDA_HOST)/cases: $(CUDA_HOST_OBJECTS) $(KERNEL_OBJECTS) $(BASELINE_OBJECTS)
	$(CXX) $(HOST_FLAGS) -pthread -o $@ $^

$(CUDA_HOST)/%.o: cuda/%.cu Makefile cuda/host/host.mk
	$(COMPILE_HOST) -x c++ $<
$(CUDA_HOST)/host/%.o: cuda/host/%.cpp Makefile cuda/host/host.mk
	$(COMPILE_HOST) $<
$(CUDA_HOST)/test/%.o: ../test/kernels/cuda/%.cpp Makefile cuda/host/host.mk
	$(COMPILE_HOST) $<
$(CUDA_HOST)/test/%.o: ../test/kernels/%.cpp Makefile cuda/host/host.mk
	$(COMPILE_HOST) $<

-include $(CUDA_HOST_OBJECTS:.o=.d)
