#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The training step of a 30M LLaMA, or of a ResNet-18 at full width, beside PyTorch's, in one table.
#
#   bash benchmarks/step/run_step_comparison.sh [llama | resnet18] [--sdp BINARY] [--python PYTHON]
#                                               [--rounds N] [--steps N] [--json FILE]
#
# Runs of sdp and of the peer alternate, one thread a process, then two processes each; ResNet-18:
# one process, then two beside PyTorch with two threads. PYTHON needs torch (pip install torch
# numpy). Without --sdp the release build in build/default is used.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

source inputs/mpi_environment.sh
export MKL_NUM_THREADS=1
script=step_comparison.py
case ${1:-} in
  llama) shift ;;
  resnet18) script=resnet_comparison.py; shift ;;
esac
exec python3 "benchmarks/step/$script" "$@"
