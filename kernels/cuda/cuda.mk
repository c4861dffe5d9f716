# make cuda: $(OUT)/libmaskserve_cuda.so, the CUDA backend that the addon loads at run time. Needs nvcc (on the PATH, in
# /usr/local/cuda, or NVCC=…); without it a line says so, and nothing is built.
# CUDA_ARCHS="80 86 89 90a": the GPUs that it is compiled for.

NVCC ?= $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
CUDA_ARCHS ?= 80 86 89 90a
CUDA_OUT := $(OUT)/cuda
CUDA_LIBRARY := $(OUT)/libmaskserve_cuda.so

comma := ,
space := $(subst ,, )
CUDA_NAMES := $(subst $(space),$(comma),$(strip $(CUDA_ARCHS:%=sm_%)))
CUDA_CODE := $(foreach arch,$(CUDA_ARCHS),-gencode=arch=compute_$(arch)$(comma)code=sm_$(arch))
CUDA_KERNELS := $(patsubst cuda/%.cu,$(CUDA_OUT)/%.o,$(wildcard cuda/*.cu))
# Beside its own, what it shares with the CPU backend.
CUDA_RUNTIME := $(patsubst cuda/%.cpp,$(CUDA_OUT)/%.o,$(wildcard cuda/*.cpp)) \
  $(patsubst %,$(CUDA_OUT)/cpu/%.o,read_file threads)
# Warnings of ptxas, and nvcc's own, are errors as well. Contraction is off on the host, as in the CPU's kernels: what is
# prepared there (AdamW's constants) is the same bits on processors whose baseline has FMA.
CUDA_FLAGS := -std=c++17 -O3 --threads 1 -Xcompiler -fPIC,-fvisibility=hidden,-ffp-contract=off,-Wall,-Wextra \
  -Werror all-warnings \
  -DMASKSERVE_ARCHITECTURES='"$(CUDA_NAMES)"'

.PHONY: cuda
ifeq ($(NVCC),)
cuda:
	echo 'no CUDA backend built: expected nvcc on the PATH or in /usr/local/cuda/bin; install the CUDA toolkit, or name it: npm run build:cuda -- NVCC=/path/to/nvcc'
else
cuda: $(CUDA_LIBRARY)
	:
endif

# What is compiled for other architectures is compiled again.
$(CUDA_OUT)/flags: FORCE
	mkdir -p $(@D)
	echo '$(NVCC) $(CUDA_CODE) $(CUDA_FLAGS)' | cmp -s - $@ || echo '$(NVCC) $(CUDA_CODE) $(CUDA_FLAGS)' > $@
.PHONY: FORCE
FORCE:

$(CUDA_OUT)/%.o: cuda/%.cu $(CUDA_OUT)/flags
	$(NVCC) $(CUDA_FLAGS) $(CUDA_CODE) -MD -MF $(@:.o=.d) -c -o $@ $<
$(CUDA_OUT)/%.o: cuda/%.cpp $(CUDA_OUT)/flags
	$(NVCC) $(CUDA_FLAGS) -MD -MF $(@:.o=.d) -c -o $@ $<
$(CUDA_OUT)/cpu/%.o: cpu/%.cpp $(CUDA_OUT)/flags
	mkdir -p $(@D)
	$(NVCC) $(CUDA_FLAGS) -MD -MF $(@:.o=.d) -c -o $@ $<

# Linked whole (-z defs) before it is renamed into place: one that lacks a symbol never replaces one that works.
$(CUDA_LIBRARY): $(CUDA_KERNELS) $(CUDA_RUNTIME)
	$(NVCC) -shared -cudart static $(CUDA_CODE) -Xlinker -z,nodelete,-z,relro,-z,now,-z,defs -o $(OUT)/next.so $^ -ldl -lpthread
	mv $(OUT)/next.so $@

-include $(CUDA_KERNELS:.o=.d) $(CUDA_RUNTIME:.o=.d)
