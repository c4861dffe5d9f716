#!/bin/sh
# Builds maskserve where this archive was unpacked, tests it on the GPU and measures it. Needs g++, make and nvcc (on the
# PATH, in /usr/local/cuda, or NVCC=…), and nothing of the network. Figures go to gpu.json beside this script.
#   CUDA_ARCHS="90a" ./run-on-gpu.sh    compile for one kind of GPU only: quicker
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
PATH="$here/bin:$PATH"
export PATH

for tool in g++ make; do
  if ! command -v "$tool" > /dev/null; then
    echo "run-on-gpu: expected $tool on the PATH, but there is none; install it and run this again" >&2
    exit 1
  fi
done

echo "== kernels for the CPU ($(g++ --version | head -n 1))"
make --silent --no-print-directory -C kernels
echo "== kernels for the GPU"
make --silent --no-print-directory -C kernels cuda ${NVCC:+"NVCC=$NVCC"} ${CUDA_ARCHS:+"CUDA_ARCHS=$CUDA_ARCHS"}
echo "== doctor"
node dist/clients/cli/main.js doctor
echo "== test:gpu"
node --test --test-reporter=spec dist/test/gpu/*.test.js
echo "== bench -- gpu"
node dist/test/bench/main.js gpu --json gpu.json
