// SPDX-License-Identifier: Apache-2.0
#include "train/accounting.hpp"

#include "base/memory_ledger.hpp"
#include "config/names.hpp"
#include "models/model_family.hpp"
#include "train/plan.hpp"

namespace sdp {

template <class V>
void account(World const& world, Config const& config, WorkerState<V>& state, double flops,
             RunSummary& s) {
  Arrangement const& arrangement = state.arrangement();
  const auto mine = static_cast<std::size_t>(world.worker());
  s.regime = to_string(config.sdp.regime);
  s.parameters = model_parameters(config.model);
  if (config.sdp.regime != Regime::none) {
    s.coverage = arrangement.mask.coverage();
    s.rho = arrangement.mask.rho;
    s.subnetworks = arrangement.mask.subnetworks;
    s.holder_sets = static_cast<double>(arrangement.mask.distinct_sets().size());
  }
  s.true_fraction = world.min_mean_max(true_fractions(arrangement)[mine]);
  s.flop_share = world.min_mean_max(flop_shares(config, arrangement)[mine]);
  s.flops_per_rank = world.min_mean_max(flops);

  const Plan plan = plan_of_run(world, config);
  const auto predict = [&](MemoryCategory category, MinMeanMax const& bytes) {
    s.memory_predicted[static_cast<std::size_t>(category)] = bytes.mean;
  };
  predict(MemoryCategory::weights, plan.own.memory.weights);
  predict(MemoryCategory::gradients, plan.own.memory.gradients);
  predict(MemoryCategory::optimizer, plan.own.memory.optimizer);
  predict(MemoryCategory::activations, plan.own.memory.activations);
  predict(MemoryCategory::communication, plan.own.memory.communication);
  s.sent_bytes_predicted = plan.own.sent_bytes.mean;
  for (int i = 0; i < k_memory_categories; ++i) {
    const auto usage = memory_ledger::usage(static_cast<MemoryCategory>(i));
    s.memory_measured[i] = world.min_mean_max(static_cast<double>(usage.peak));
  }
  s.memory_total = world.min_mean_max(static_cast<double>(memory_ledger::total().peak));
  s.process_peak_bytes = world.min_mean_max(static_cast<double>(peak_resident_bytes()));
}

template void account<float>(World const&, Config const&, WorkerState<float>&, double, RunSummary&);
template void account<double>(World const&, Config const&, WorkerState<double>&, double,
                              RunSummary&);
template void account<kernels::bf16>(World const&, Config const&, WorkerState<kernels::bf16>&,
                                     double, RunSummary&);

}  // namespace sdp
