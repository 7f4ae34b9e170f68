#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds, checks and measures sdp on a machine with one GPU, beside PyTorch, and writes one table.
#
#   bash benchmarks/gpu/run.sh [OPTIONS]
#
#   --sdp BINARY       the GPU build; without it the preset `cuda` is built (Kokkos_ROOT and
#                      KokkosKernels_ROOT name the Kokkos to use)
#   --cpu-sdp BINARY   a CPU build, for the losses to compare with; without it the preset `default`
#                      is built where its packages are installed
#   --tests FOLDER     the kernel tests of the GPU build (tests/bin of its build folder)
#   --python PYTHON    a Python 3.11 or newer with torch
#   --only SECTIONS    of kernels, losses, steps, nccl (comma-separated); results add up in the
#                      folder of --out, so that sections may run one by one
#   --again            measures what is there already once more; without it a call that was
#                      stopped goes on where it was
#   --models NAMES     of 134M, 1B
#   --out FOLDER       runs/gpu
#   --result FILE      the table; benchmarks/results/gpu-DATE.md
#   --dry-run          every step of it with tiny shapes, on the CPU
#
# measure.py --help lists the options that say how often and how much.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

sdp='' cpu_sdp='' tests='' python=python3 dry=''
rest=()
while (($# > 0)); do
  case $1 in
    -h | --help) sed -n '3,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" | sed '$d'; exit 0 ;;
    --dry-run) dry=1; rest+=("$1") ;;
    --sdp | --cpu-sdp | --tests | --python)
      if (($# < 2)); then echo "run.sh: $1 needs a value" >&2; exit 2; fi
      case $1 in
        --sdp) sdp=$2 ;;
        --cpu-sdp) cpu_sdp=$2 ;;
        --tests) tests=$2 ;;
        --python) python=$2 ;;
      esac
      shift ;;
    *) rest+=("$1") ;;
  esac
  shift
done
kernel_tests=(test_kernels_blas test_kernels_core test_kernels_nn test_kernels_nn_images
              test_kernels_update test_kernels_random)
if [[ -z $sdp ]]; then
  preset=cuda
  if [[ -n $dry ]]; then preset=default; fi
  cmake --preset "$preset" -DSDP_BUILD_BENCHMARKS=ON
  cmake --build "build/$preset" -j "$(nproc)" --target sdp benchmark_kernels "${kernel_tests[@]}"
  sdp=build/$preset/bin/sdp
fi
if [[ -z $cpu_sdp ]]; then
  if [[ -n $dry ]]; then
    cpu_sdp=$sdp
  elif [[ -x build/default/bin/sdp ]] ||
    { cmake --preset default -DSDP_BUILD_TESTS=OFF &&
      cmake --build build/default -j "$(nproc)" --target sdp; }; then
    cpu_sdp=build/default/bin/sdp
  else
    echo "run.sh: no CPU build; losses are not compared" >&2
  fi
fi
if [[ -z $tests ]]; then tests=$(dirname "$(dirname "$(readlink -f "$sdp")")")/tests/bin; fi

source inputs/mpi_environment.sh
exec "$python" benchmarks/gpu/measure.py --sdp "$sdp" --tests "$tests" \
  ${cpu_sdp:+--cpu-sdp "$cpu_sdp"} "${rest[@]}"
