// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint_saver.hpp"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "base/heartbeat.hpp"
#include "base/region.hpp"
#include "checkpoint/checkpoint_save.hpp"

namespace sdp {

template <class V>
CheckpointSaver<V>::CheckpointSaver(World const& world, CheckpointConfig const& config,
                                    std::string folder, MetricsLog const& metrics)
    : m_world(world), m_config(config), m_folder(std::move(folder)), m_metrics(metrics) {}

template <class V>
typename CheckpointSaver<V>::Decision CheckpointSaver<V>::decide(std::int64_t step,
                                                                 bool wants_to_stop) const {
  const bool by_seconds = m_config.every_seconds > 0 &&
                          m_since_save.seconds() >= static_cast<double>(m_config.every_seconds);
  std::vector<std::int64_t> votes{wants_to_stop, by_seconds};
  m_world.sum_in_place(votes);
  const bool by_steps = m_config.every_steps > 0 && step % m_config.every_steps == 0;
  return {votes[0] > 0, by_steps || votes[1] > 0};
}

template <class V>
void CheckpointSaver<V>::save(CheckpointHeader const& header, WorkerState<V>& worker,
                              Progress& progress) {
  const Region region("sdp::train::checkpoint");
  heartbeat::phase("checkpoint");
  worker.exchange().finish_return();
  const SavedCheckpoint saved = save_checkpoint(m_world, m_folder, SaveOptions{m_config.keep, 1},
                                                header, worker.checkpoint_buffers());
  const std::int64_t step = header.state.step;
  m_world.collectively([&] {
    if (m_world.is_root())
      m_metrics.append(CheckpointRecord{step, saved.path, saved.seconds, saved.bytes});
  });
  progress.note(fmt::format("step {}  checkpoint {} ({} in {:.1f} s)", step, saved.path,
                            short_bytes(static_cast<double>(saved.bytes)), saved.seconds));
  m_since_save.reset();
}

template class CheckpointSaver<float>;
template class CheckpointSaver<double>;

}  // namespace sdp
