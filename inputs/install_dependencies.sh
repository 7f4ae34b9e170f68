#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian or Ubuntu packages that sdp is built from, those that are missing only.
#
#   bash inputs/install_dependencies.sh [--tests] [--plot] [--images]
#
# --tests adds the test libraries, --plot what draws the loss curve, --images the Fashion-MNIST data
# set. Uses root, or sudo. With nothing missing it touches neither the network nor the system. With
# Kokkos_ROOT set (a stand-alone Kokkos), the packaged Kokkos is left out.
set -euo pipefail

packages=(g++ cmake ninja-build pkg-config git libopenmpi-dev openmpi-bin libhdf5-openmpi-dev
          libopenblas-dev libtomlplusplus-dev libcli11-dev nlohmann-json3-dev libfmt-dev
          libspdlog-dev libsentencepiece-dev zlib1g-dev libzstd-dev libdeflate-dev)
if [[ -z ${Kokkos_ROOT:-} ]]; then
  packages+=(libtrilinos-kokkos-dev libtrilinos-kokkos-kernels-dev)
fi
for option in "$@"; do
  case $option in
    --tests) packages+=(libgtest-dev libgmock-dev libbenchmark-dev) ;;
    --plot) packages+=(gnuplot-nox) ;;
    --images) packages+=(dataset-fashion-mnist) ;;
    *) echo "usage: bash inputs/install_dependencies.sh [--tests] [--plot] [--images]" >&2; exit 2 ;;
  esac
done

if ! command -v dpkg-query >/dev/null; then
  echo "This is not a Debian or Ubuntu system. sdp needs what these packages hold: ${packages[*]}" >&2
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Abbrev} ' "$package" 2>/dev/null || true)
  if [[ $state != *"ii "* ]]; then
    missing+=("$package")
  fi
done

if ((${#missing[@]} > 0)); then
  as_root=()
  if [[ $(id -u) != 0 ]]; then
    if ! command -v sudo >/dev/null; then
      echo "Missing packages, and neither root nor sudo to install them. As root, run:" >&2
      echo "  apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
      exit 1
    fi
    as_root=(sudo)
  fi
  echo "Installing missing packages: ${missing[*]}"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  if ! "${as_root[@]}" apt-get update -qq >"$log" 2>&1; then
    # An unreachable extra source must not stop what the others can deliver.
    echo "apt-get update had problems; trying with the lists it has" >&2
    tail -n 3 "$log" >&2
  fi
  if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
      --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    echo "Could not install: ${missing[*]}" >&2
    exit 1
  fi
fi

# The reference BLAS is forty times slower than OpenBLAS, and either may answer to libblas.so.3.
if command -v update-alternatives >/dev/null; then
  multiarch=$(gcc -print-multiarch 2>/dev/null || echo x86_64-linux-gnu)
  chosen=$(update-alternatives --query "libblas.so.3-$multiarch" 2>/dev/null |
           sed -n 's/^Value: //p' || true)
  if [[ -n $chosen && $chosen != *openblas* ]]; then
    echo "Warning: libblas.so.3 is $chosen, not OpenBLAS; training will be slow." >&2
    echo "  sudo update-alternatives --auto libblas.so.3-$multiarch" >&2
  fi
fi
