// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/timer.hpp"
#include "checkpoint/checkpoint_save.hpp"
#include "comm/world.hpp"
#include "config/config.hpp"
#include "train/metrics.hpp"
#include "train/progress.hpp"
#include "train/worker_state.hpp"

namespace sdp {

/// The checkpoints of one run on one rank: when one is due, the save, its record in metrics.jsonl
/// and what is said of it. With checkpoint.async a save goes on while the run does; its checkpoint
/// appears when all ranks have written, and never half-written.
template <class V>
class CheckpointSaver {
 public:
  using Stored = kernels::accum_t<V>;  ///< of the elements in a checkpoint

  /// `folder` receives the checkpoints. The references must outlive the saver.
  CheckpointSaver(World const& world, CheckpointConfig const& config, std::string folder,
                  MetricsLog const& metrics);

  /// What all ranks do after an update.
  struct Decision {
    bool stop = false;     ///< some rank wants to
    bool save = false;     ///< a checkpoint is due by steps or by seconds
    bool publish = false;  ///< all ranks have written the save that goes on
  };
  /// Collective, one message: `step` updates are done, and this rank wants to stop or not.
  Decision decide(std::int64_t step, bool wants_to_stop) const;

  /// Saves what the worker holds, once the weights of the last update have arrived and an earlier
  /// save has ended. With checkpoint.async only the copy to the host and the layout of the files
  /// are waited for. Collective; errors as save_checkpoint(), those of an earlier save included.
  void save(CheckpointHeader const& header, WorkerState<V>& worker, Progress& progress);

  /// Waits for the save that goes on, if any, and publishes it. Collective; errors as save().
  void finish(Progress& progress);

  /// The longest time from the beginning of a save to its end.
  double longest_seconds() const { return m_longest_seconds; }

 private:
  void publish(Progress& progress);

  World const& m_world;
  CheckpointConfig const& m_config;
  std::string m_folder;
  MetricsLog const& m_metrics;
  Timer m_since_save;             // since the last one ended
  CheckpointCopy<Stored> m_copy;  // outlives the save that reads it
  std::optional<CheckpointSave<Stored>> m_save;
  double m_longest_seconds = 0;
  double m_blocked_seconds = 0;  // that training waited for the present save
};

extern template class CheckpointSaver<float>;
extern template class CheckpointSaver<double>;
extern template class CheckpointSaver<kernels::bf16>;

}  // namespace sdp
