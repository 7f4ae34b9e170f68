// SPDX-License-Identifier: Apache-2.0
#include "train/run_setup.hpp"

#include <numeric>

#include "base/error.hpp"

namespace sdp {

std::optional<World> declared_world(World const& world, Config const& deck) {
  const auto declared = static_cast<int>(deck.system.ranks_per_node);
  if (declared == 0 || declared == world.node_size()) return std::nullopt;
  return World::from(world.comm(), declared);
}

RunSetup set_up_run(World const& world, Config const& deck) {
  return world.collectively([&] {
    if (deck.sdp.regime != Regime::none && deck.sdp.placement == Placement::node_aligned &&
        world.ranks_per_node() > 1 && world.node_size() == 1)
      throw ConfigError(
          "sdp.placement is \"node_aligned\", but the ranks of a node do not follow each other; "
          "launch them node by node");
    RunSetup setup{deck, arrange(deck, world.workers(), world.node_size())};
    const std::vector<double> shares = flop_shares(deck, setup.arrangement);
    const RunLength length = run_length(deck, std::accumulate(shares.begin(), shares.end(), 0.0) /
                                                  static_cast<double>(shares.size()));
    setup.config.train.steps = length.steps;
    setup.config.schedule = length.schedule;
    return setup;
  });
}

BatchPlan batch_plan(Config const& config, int ranks, int rank) {
  return {config.train.global_batch, config.train.micro_batch, ranks, rank};
}

DeliveryOptions delivery_options(SystemConfig const& system) {
  DeliveryOptions options;
  options.gpu_aware_mpi = system.gpu_aware_mpi == Toggle::on;
  options.timeout_seconds = message_timeout(system);
  return options;
}

ExchangeOptions exchange_options(SystemConfig const& system) {
  ExchangeOptions options;
  options.method = system.reduction == Reduction::allreduce ? ReductionMethod::allreduce
                                                            : ReductionMethod::exchange;
  options.bf16_wire = system.gradient_wire == WireType::bf16;
  options.gpu_aware_mpi = system.gpu_aware_mpi == Toggle::on;
  options.timeout_seconds = message_timeout(system);
  return options;
}

double message_timeout(SystemConfig const& system) {
  return 2.0 * static_cast<double>(system.watchdog_seconds);
}

}  // namespace sdp
