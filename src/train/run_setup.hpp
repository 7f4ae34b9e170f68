// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "comm/delivery.hpp"
#include "comm/exchange.hpp"
#include "comm/world.hpp"
#include "config/config.hpp"
#include "data/batch_reader.hpp"
#include "train/arrangement.hpp"

namespace sdp {

/// A deck on the ranks of a run: its length resolved, and who holds what.
struct RunSetup {
  Config config;  ///< the deck with the updates and the warm-up that run_length() gives
  Arrangement arrangement;
};

/// The world with the nodes that the deck declares (system.ranks_per_node); nothing where it
/// declares none or the same. Collective; ConfigError on every rank when they do not divide the
/// ranks.
std::optional<World> declared_world(World const& world, Config const& deck);

/// Collective; ConfigError, the same on every rank, where arrange() throws and where
/// sdp.placement = "node_aligned" meets ranks that do not follow each other on their nodes.
RunSetup set_up_run(World const& world, Config const& deck);

/// How a rank shares the batches of a run.
BatchPlan batch_plan(Config const& config, int ranks, int rank);

/// How gradients and weights travel in updates: over NCCL where the deck says so, or leaves it open
/// and every rank of a node has a device of its own; else over MPI. Collective.
QueueFactory exchange_transport(World const& world, SystemConfig const& system);

/// Whether ranks of a node address each other's gradients in an update, where they can: never in a
/// build for devices.
bool wants_node_memory(SystemConfig const& system);

/// How state moves between ranks outside of an update: over MPI.
DeliveryOptions delivery_options(SystemConfig const& system);

/// How gradients and weights move in an update.
ExchangeOptions exchange_options(SystemConfig const& system);

/// Longest time without progress among messages, in seconds: past that of the watchdog, which
/// reports for every rank.
double message_timeout(SystemConfig const& system);

}  // namespace sdp
