#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fails on an include against the direction of the layers, on MPI outside comm (and the few places
# that start it or hand it to HDF5), on a backend macro outside base, comm and the kernels, and on
# Kokkos beside parsers that compilers for devices cannot read.
#
#   include_direction_test.sh SOURCE_FOLDER
set -euo pipefail
cd "$1"
faults=0
fault() {
  echo "$1"
  faults=$((faults + 1))
}

# What each layer may include, besides itself.
declare -A allowed=(
  [base]="kernels"
  [config]="kernels base"
  [data]="kernels base config"
  [models]="kernels base config"
  [subnet]="kernels base config"
  [comm]="kernels base config"
  [optim]="kernels base config"
  [checkpoint]="kernels base config comm"
  [train]="kernels base config data models subnet comm optim checkpoint"
  [cli]="kernels base config data models subnet comm optim checkpoint train"
)
layers=" ${!allowed[*]} kernels "

check_folder() {  # folder, name of the layer, allowed layers
  local file line target
  while IFS=: read -r file line target; do
    target=${target#*\"}
    target=${target%%/*}
    [[ $layers == *" $target "* ]] || continue
    [[ $target == "$2" || " $3 " == *" $target "* ]] ||
      fault "$file:$line: $2 may not include $target"
  done < <(grep -rnE '^ *#include "[a-z_]+/' --include='*.hpp' --include='*.cpp' "$1" |
           sed -E 's/^([^:]+):([0-9]+):.*#include ("[^"]+").*/\1:\2:\3/')
}

for layer in "${!allowed[@]}"; do
  [[ -d src/$layer ]] && check_folder "src/$layer" "$layer" "${allowed[$layer]}"
done
check_folder kernels kernels ""

while IFS=: read -r file line _; do
  case $file in
    src/comm/* | src/cli/main.cpp | src/cli/version_command.cpp | src/checkpoint/checkpoint_writer.cpp | src/checkpoint/write_plan.*) ;;
    *) fault "$file:$line: MPI belongs to comm" ;;
  esac
done < <(grep -rnE '#include <mpi\.h>|\bMPI_[A-Z]' --include='*.hpp' --include='*.cpp' src kernels)

while IFS=: read -r file line _; do
  case $file in
    src/base/* | src/comm/* | kernels/core/* | kernels/blas/*) ;;
    *) fault "$file:$line: backend macros belong to base, comm and the kernel seams" ;;
  esac
done < <(grep -rnE 'KOKKOS_ENABLE_(CUDA|HIP|SYCL|OPENMP)|__CUDA_ARCH__|__HIP_' \
              --include='*.hpp' --include='*.cpp' src kernels)

declare -A seen
see() {  # file: it and every header of the project that it includes, itself or through others
  local header path
  [[ -z ${seen[$1]:-} ]] || return 0
  seen[$1]=yes
  while read -r header; do
    for path in "src/$header" "$header"; do
      if [[ -f $path ]]; then see "$path"; fi
    done
  done < <(sed -nE 's/^ *#include "([^"]+)".*/\1/p' "$1")
}
while read -r file; do
  seen=()
  see "$file"
  while read -r header; do
    fault "$file: a source with CLI11 or toml++ may not see Kokkos, which $header includes"
  done < <(grep -lE '^ *#include <Kokkos' "${!seen[@]}")
done < <(grep -rlE '^ *#include <(CLI/|toml\+\+/)' --include='*.hpp' --include='*.cpp' src kernels)

while read -r file; do
  fault "$file: the first line must carry the SPDX identifier"
done < <(git ls-files 2>/dev/null '*.hpp' '*.cpp' | while read -r f; do
           [[ -f $f ]] && ! head -n 1 "$f" | grep -q SPDX-License-Identifier && echo "$f"
         done)

if ((faults > 0)); then
  echo "$faults faults"
  exit 1
fi
echo "every include follows the direction of the layers"
