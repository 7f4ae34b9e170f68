#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains a ResNet-18 on Fashion-MNIST whole and as subnetworks in all four variants, at equal FLOPs,
# from several seeds, and makes one table and one picture of it.
#
#   bash benchmarks/images/run.sh [train | time | table] [--sdp BINARY] [--out FOLDER] [--seeds N]
#                                 [--rounds N] [section.key=value ...]
#
# train   what is missing of the runs; a run that was stopped goes on where it stopped
# time    steps of all variants in turns, for the table's step times; wants a quiet machine
# table   from finished runs: FOLDER/table.md and FOLDER/accuracy.png
#
# Without one of these words: train, then table. Without --sdp the release build in build/default is
# used; `table` needs matplotlib for the picture and leaves it out otherwise.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

source inputs/mpi_environment.sh
# More ranks than cores: who waits must not keep others from working.
export OMPI_MCA_mpi_yield_when_idle=1
exec "${SDP_PYTHON:-python3}" benchmarks/images/variants.py "$@"
