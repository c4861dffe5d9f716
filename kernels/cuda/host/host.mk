#The kernels of cuda/*.cu compiled once for the host, against host/execution.h, with every access looked at
# (host/checker.h), for two uses where there is no GPU:
#   make cuda-host     linked with their cases of ../test/kernels/cuda and the CPU backend, which they are compared with, as
#                      $(OUT)/cuda-host/cases
#   make cuda-on-host  the whole backend with its runtime over host memory, as $(OUT)/libmaskserve_cuda_on_host.so: what
#                      the addon loads in tests
#   make cuda-host-faults  kernels with one fault each, which must be found, as $(OUT)/cuda-host/faults
# make cuda-host-asan: the kernels and their cases under AddressSanitizer and UndefinedBehaviorSanitizer, all of them run.

CUDA_HOST ?= $(OUT)/cuda-host
HOST_FLAGS ?= -O2 -g1 -DMASKSERVE_CHECKED
# Calls at every access, which checker.cpp takes: no sanitizer's library is linked.
CHECKS ?= -fsanitize=thread,alignment -fno-sanitize-recover=alignment
HOST_KERNELS := $(patsubst cuda/%.cu,$(CUDA_HOST)/%.o,$(wildcard cuda/*.cu)) \
  $(patsubst cuda/host/%.cpp,$(CUDA_HOST)/host/%.o,$(wildcard cuda/host/*.cpp))
HOST_CASES := $(patsubst ../test/kernels/cuda/%.cpp,$(CUDA_HOST)/test/%.o,$(wildcard ../test/kernels/cuda/*.cpp)) \
  $(CUDA_HOST)/test/fuzz_codec_inputs.o
HOST_GPU := $(CUDA_HOST)/test/host_runtime.o $(CUDA_HOST)/test/host_memory.o
# device.cpp asks for a GPU's properties; on the host host_runtime.cpp answers.
HOST_RUNTIME := $(patsubst cuda/%.cpp,$(CUDA_HOST)/%.o,$(filter-out cuda/device.cpp,$(wildcard cuda/*.cpp))) $(HOST_GPU)
ON_HOST_LIBRARY := $(OUT)/libmaskserve_cuda_on_host.so
COMPILE_HOST = mkdir -p $(@D) && $(CXX) -std=c++17 $(HOST_FLAGS) -fPIC -fvisibility=hidden -ffp-contract=off \
  -fno-strict-aliasing -Wall -Wextra -Wno-unknown-pragmas $(WERROR) -MMD -MP -DMASKSERVE_CUDA_ON_HOST -c -o $@

.PHONY: cuda-host cuda-host-asan cuda-host-faults cuda-on-host
cuda-host: $(CUDA_HOST)/cases
cuda-host-faults: $(CUDA_HOST)/faults
cuda-on-host: $(ON_HOST_LIBRARY)
	:

# Fibers have stacks of their own, which the check for returned frames does not know.
cuda-host-asan:
	$(MAKE) cuda-host CUDA_HOST=$(OUT)/cuda-host-asan CHECKS= HOST_FLAGS="-O1 -g -fno-omit-frame-pointer \
	  -fno-sanitize-recover=all -fsanitize=address,undefined"
	$(OUT)/cuda-host-asan/cases --list | while read -r name; do \
	  echo "$$name"; ASAN_OPTIONS=detect_stack_use_after_return=0 $(OUT)/cuda-host-asan/cases "$$name" || exit 1; \
	done

$(CUDA_HOST)/cases: $(HOST_KERNELS) $(HOST_CASES) $(KERNEL_OBJECTS) $(BASELINE_OBJECTS)
	$(CXX) $(HOST_FLAGS) -pthread -o $@ $^

$(CUDA_HOST)/faults: $(CUDA_HOST)/checker/faults.o $(HOST_GPU) $(filter $(CUDA_HOST)/host/%,$(HOST_KERNELS))
	$(CXX) $(HOST_FLAGS) -pthread -o $@ $^

# What the backend shares with the CPU's.
SHARED_WITH_CPU := read_file threads
$(ON_HOST_LIBRARY): $(HOST_KERNELS) $(HOST_RUNTIME) $(SHARED_WITH_CPU:%=$(OUT)/cpu/%.o)
	$(CXX) -shared -pthread -Wl,-z,nodelete,-z,now,-z,defs -o $(OUT)/next_on_host.so $^ -ldl
	mv $(OUT)/next_on_host.so $@

$(CUDA_HOST)/%.o: cuda/%.cu Makefile cuda/host/host.mk
	$(COMPILE_HOST) $(CHECKS) -x c++ $<
$(CUDA_HOST)/%.o: cuda/%.cpp Makefile cuda/host/host.mk
	$(COMPILE_HOST) $<
$(CUDA_HOST)/host/%.o: cuda/host/%.cpp Makefile cuda/host/host.mk
	$(COMPILE_HOST) $<
$(CUDA_HOST)/checker/%.o: ../test/kernels/cuda/checker/%.cpp Makefile cuda/host/host.mk
	$(COMPILE_HOST) $(CHECKS) $<
$(CUDA_HOST)/test/%.o: ../test/kernels/cuda/%.cpp Makefile cuda/host/host.mk
	$(COMPILE_HOST) $<
$(CUDA_HOST)/test/%.o: ../test/kernels/backend/%.cpp Makefile cuda/host/host.mk
	$(COMPILE_HOST) $<
$(CUDA_HOST)/test/%.o: ../test/kernels/%.cpp Makefile cuda/host/host.mk
	$(COMPILE_HOST) $<

-include $(HOST_KERNELS:.o=.d) $(HOST_CASES:.o=.d) $(HOST_RUNTIME:.o=.d) $(CUDA_HOST)/checker/faults.d
