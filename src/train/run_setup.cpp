// SPDX-License-Identifier: Apache-2.0
#include "train/run_setup.hpp"

#include <numeric>

#include "base/device.hpp"
#include "base/error.hpp"
#include "base/version.hpp"
#include "comm/transport.hpp"

namespace sdp {

namespace {

/// MPI, through host memory where it does not address the memory of the devices.
QueueFactory mpi_transport(SystemConfig const& system) {
  const bool direct = k_host_memory || system.gpu_aware_mpi == Toggle::on ||
                      (system.gpu_aware_mpi == Toggle::automatic && mpi_addresses_devices());
  return mpi_queue(!direct);
}

}  // namespace

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

QueueFactory exchange_transport(World const& world, SystemConfig const& system) {
  bool nccl = system.comm == Transport::nccl;
  if (system.comm == Transport::automatic)
    nccl = has_nccl() && world.all(world.ranks_per_node() <= visible_devices());
  return nccl && world.size() > 1 ? nccl_queue(world) : mpi_transport(system);
}

bool wants_node_memory(SystemConfig const& system) {
  return system.node_memory != Toggle::off && system.reduction == Reduction::exchange &&
         system.gradient_wire != WireType::bf16;
}

DeliveryOptions delivery_options(SystemConfig const& system) {
  DeliveryOptions options;
  options.queue = mpi_transport(system);
  options.timeout_seconds = message_timeout(system);
  return options;
}

ExchangeOptions exchange_options(SystemConfig const& system) {
  ExchangeOptions options;
  options.method = system.reduction == Reduction::allreduce ? ReductionMethod::allreduce
                                                            : ReductionMethod::exchange;
  options.bf16_wire = system.gradient_wire == WireType::bf16;
  options.timeout_seconds = message_timeout(system);
  return options;
}

double message_timeout(SystemConfig const& system) {
  return 2.0 * static_cast<double>(system.watchdog_seconds);
}

}  // namespace sdp
