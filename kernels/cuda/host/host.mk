# make cuda-host: the kernels of cuda/*.cu compiled for the host against host/execution.h, with their cases of
# ../test/kernels/cuda, as $(OUT)/cuda-host/cases. Linked with the CPU backend, which they are compared with.
# make cuda-host-asan: the kernels and their cases under AddressSanitizer and UndefinedBehaviorSanitizer, all of them run.

CUDA_HOST ?= $(OUT)/cuda-host
HOST_FLAGS ?= -O1
CUDA_HOST_OBJECTS := $(patsubst cuda/%.cu,$(CUDA_HOST)/%.o,$(wildcard cuda/*.cu)) \
  $(patsubst cuda/host/%.cpp,$(CUDA_HOST)/host/%.o,$(wildcard cuda/host/*.cpp)) \
  $(patsubst ../test/kernels/cuda/%.cpp,$(CUDA_HOST)/test/%.o,$(wildcard ../test/kernels/cuda/*.cpp)) \
  $(CUDA_HOST)/test/fuzz_codec_inputs.o
COMPILE_HOST = mkdir -p $(@D) && $(CXX) -std=c++17 $(HOST_FLAGS) -ffp-contract=off -fno-strict-aliasing -Wall -Wextra \
  -Wno-unknown-pragmas $(WERROR) $(CPPFLAGS) -c -o $@

.PHONY: cuda-host cuda-host-asan
cuda-host: $(CUDA_HOST)/cases

# Fibers have stacks of their own, which the check for returned frames does not know.
cuda-host-asan:
	$(MAKE) cuda-host CUDA_HOST=$(OUT)/cuda-host-asan HOST_FLAGS="-O1 -g -fno-omit-frame-pointer \
	  -fno-sanitize-recover=all -fsanitize=address,undefined"
	$(OUT)/cuda-host-asan/cases --list | while read -r name; do \
	  echo "$$name"; ASAN_OPTIONS=detect_stack_use_after_return=0 $(OUT)/cuda-host-asan/cases "$$name" || exit 1; \
	done

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
