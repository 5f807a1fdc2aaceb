#!/usr/bin/env bash
# Resolves the .in files into locks with uv. The CPU and CUDA locks pin the same versions.
set -euo pipefail
cd "$(dirname "$0")"
compile() {
  uv pip compile --quiet --python-platform x86_64-manylinux_2_28 --python-version 3.11 \
    --no-header --no-annotate "$@"
}
compile --excludes excludes.txt cpu.in -o cpu.lock
# vLLM's CUDA build pins its own tvm-ffi; everything else is held to the CPU lock's versions.
compile --constraints <(sed 's/+cpu$//; /^vllm/d; /^apache-tvm-ffi/d' cpu.lock) cuda.in -o cuda.lock
compile dev.in -o dev.lock
compile docs.in -o docs.lock
