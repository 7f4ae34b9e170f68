// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "comm/world.hpp"
#include "config/config.hpp"

namespace sdp {

/// How a run ended.
enum class TrainEnd {
  finished,
  stopped,  ///< on a signal or the wall-time limit, after saving a checkpoint
};

/// Trains as the deck says, from the start or from where run.out_dir stands, and writes the outputs
/// of a run there. Collective. Everything that can be found wrong with the deck, the data and the
/// folder is found before anything is written, and is the same Error on every rank.
TrainEnd train(World const& world, Config const& config);

/// The checks of train() and what it would do: model, batches, data, memory of the model state per
/// rank and bytes per step, as text or as one JSON object. Collective; writes nothing.
std::string dry_run(World const& world, Config const& config, bool json);

}  // namespace sdp
