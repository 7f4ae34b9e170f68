#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The training step of a 30M LLaMA beside PyTorch's, in one table.
#
#   bash benchmarks/step/run_step_comparison.sh [--sdp BINARY] [--python PYTHON] [--rounds N]
#                                               [--steps N] [--json FILE]
#
# Runs of sdp and of the peer alternate, one thread a process, then two processes each. PYTHON needs
# torch (pip install torch numpy). Without --sdp the release build in build/default is used.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# One thread a process, wherever it comes from; no core binding, so that two ranks may share a node
# with other processes.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 OMP_PROC_BIND=false
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
if [[ $(id -u) == 0 ]]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
exec python3 benchmarks/step/step_comparison.py "$@"
