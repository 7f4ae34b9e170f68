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

source inputs/mpi_environment.sh
export MKL_NUM_THREADS=1
exec python3 benchmarks/step/step_comparison.py "$@"
