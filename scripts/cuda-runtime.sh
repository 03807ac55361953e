#!/bin/bash
# Brings what a CUDA GPU needs beside its driver, from the Python package index and without
# a toolkit: the runtime compiler, its headers and the matrix library, 0.8 GB unpacked.
#
#   scripts/cuda-runtime.sh DIR [--small] [--nccl]    then: export CUDA_PATH=(what it says)
#
# --small leaves out the matrix library (for machines that have one, and to compile kernels
# where there is no GPU). --nccl adds what several GPUs sum with, 0.4 GB, which is found by
# LD_LIBRARY_PATH alone: it says on stderr what that must be. VERSION must not be newer than
# what the driver knows: 13.0 needs driver 580 or later.
set -euo pipefail
version="${VERSION:-13.0}"
folder="${1:?usage: scripts/cuda-runtime.sh DIR [--small] [--nccl]}"
options=" ${*:2} "
wheels=("nvidia-cuda-nvrtc==$version.*" "nvidia-cuda-runtime==$version.*"
  "nvidia-cuda-cccl==$version.*" "nvidia-cuda-crt==$version.*")
if [[ $options != *" --small "* ]]; then
  wheels+=("nvidia-cublas==$version.*")
fi
if [[ $options == *" --nccl "* ]]; then
  wheels+=("nvidia-nccl-cu${version%%.*}")
fi
python3 -m pip install --quiet --no-deps --only-binary :all: --upgrade --target "$folder" "${wheels[@]}"
nccl="$(realpath "$folder")/nvidia/nccl/lib"
if [ -e "$nccl/libnccl.so.2" ]; then
  # The name that it is opened by, which the wheel does not have.
  ln -sf libnccl.so.2 "$nccl/libnccl.so"
  echo "for several GPUs: export LD_LIBRARY_PATH=$nccl" >&2
fi
echo "$(realpath "$folder")/nvidia/cu${version%%.*}"
