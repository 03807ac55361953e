#!/bin/bash
# Brings what a CUDA GPU needs beside its driver, from the Python package index and without
# a toolkit: the runtime compiler, its headers and the matrix library, 0.8 GB unpacked.
#
#   scripts/cuda-runtime.sh DIR [--small]    then: export CUDA_PATH=(what it says)
#
# --small leaves out the matrix library (for machines that have one, and to compile kernels
# where there is no GPU). VERSION must not be newer than what the driver knows: 13.0 needs
# driver 580 or later.
set -euo pipefail
version="${VERSION:-13.0}"
folder="${1:?usage: scripts/cuda-runtime.sh DIR [--small]}"
wheels=("nvidia-cuda-nvrtc==$version.*" "nvidia-cuda-runtime==$version.*"
  "nvidia-cuda-cccl==$version.*" "nvidia-cuda-crt==$version.*")
if [ "${2:-}" != --small ]; then
  wheels+=("nvidia-cublas==$version.*")
fi
python3 -m pip install --quiet --no-deps --only-binary :all: --upgrade --target "$folder" "${wheels[@]}"
echo "$(realpath "$folder")/nvidia/cu${version%%.*}"
