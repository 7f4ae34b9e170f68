#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds with the tests and runs every one of them.
#
#   bash tests/run.sh [options of ctest, for instance -R models or -L unit]
#
# Works from any folder and may be repeated. With CI set, compiler warnings are errors.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash inputs/install_dependencies.sh --tests --images
began=$SECONDS
warnings=OFF
if [[ -n ${CI:-} ]]; then
  warnings=ON
fi
cmake --preset default -DSDP_WARNINGS_AS_ERRORS=$warnings
cmake --build --preset default -j "$(nproc)"
echo "Built in $((SECONDS - began)) s"
exec ctest --preset default -j "$(nproc)" "$@"
