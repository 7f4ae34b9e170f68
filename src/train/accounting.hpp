// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "comm/world.hpp"
#include "config/config.hpp"
#include "train/arrangement.hpp"
#include "train/metrics.hpp"
#include "train/worker_state.hpp"

namespace sdp {

/// Fills what a summary says of subnetworks, FLOPs, messages and memory: predictions from the
/// plan beside what was measured, over all ranks. `flops` were spent by this rank in the run.
/// Coverage, shares, spectral gap and predictions are those of the last mask. Collective.
template <class V>
void account(World const& world, Config const& config, WorkerState<V>& state, double flops,
             RunSummary& summary);

extern template void account<float>(World const&, Config const&, WorkerState<float>&, double,
                                    RunSummary&);
extern template void account<double>(World const&, Config const&, WorkerState<double>&, double,
                                     RunSummary&);
extern template void account<kernels::bf16>(World const&, Config const&,
                                            WorkerState<kernels::bf16>&, double, RunSummary&);

}  // namespace sdp
