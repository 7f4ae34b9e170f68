// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "base/timer.hpp"
#include "checkpoint/checkpoint.hpp"
#include "comm/world.hpp"
#include "config/config.hpp"
#include "train/metrics.hpp"
#include "train/progress.hpp"
#include "train/worker_state.hpp"

namespace sdp {

/// The checkpoints of one run on one rank: when one is due, the save, its record in metrics.jsonl
/// and what is said of it.
template <class V>
class CheckpointSaver {
 public:
  /// `folder` receives the checkpoints. The references must outlive the saver.
  CheckpointSaver(World const& world, CheckpointConfig const& config, std::string folder,
                  MetricsLog const& metrics);

  /// What all ranks do after an update.
  struct Decision {
    bool stop = false;  ///< some rank wants to
    bool save = false;  ///< a checkpoint is due by steps or by seconds
  };
  /// Collective, one message: `step` updates are done, and this rank wants to stop or not.
  Decision decide(std::int64_t step, bool wants_to_stop) const;

  /// Writes a checkpoint of what the worker holds. Waits for the weights of the last update.
  /// Collective; errors as save_checkpoint().
  void save(CheckpointHeader const& header, WorkerState<V>& worker, Progress& progress);

 private:
  World const& m_world;
  CheckpointConfig const& m_config;
  std::string m_folder;
  MetricsLog const& m_metrics;
  Timer m_since_save;
};

extern template class CheckpointSaver<float>;
extern template class CheckpointSaver<double>;

}  // namespace sdp
