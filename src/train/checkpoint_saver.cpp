// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint_saver.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/heartbeat.hpp"
#include "base/log.hpp"
#include "base/region.hpp"

namespace sdp {

template <class V>
CheckpointSaver<V>::CheckpointSaver(World const& world, CheckpointConfig const& config,
                                    std::string folder, MetricsLog const& metrics)
    : m_world(world), m_config(config), m_folder(std::move(folder)), m_metrics(metrics) {
  if (world.is_root() && config.files > world.size())
    log::warning(
        fmt::format("checkpoint.files is {}, but a rank writes into one file: {} of them "
                    "are written by {} rank{}",
                    config.files, world.size(), world.size(), world.size() == 1 ? "" : "s"));
}

template <class V>
typename CheckpointSaver<V>::Decision CheckpointSaver<V>::decide(std::int64_t step,
                                                                 bool wants_to_stop) const {
  const bool by_seconds = m_config.every_seconds > 0 && !m_save &&
                          m_since_save.seconds() >= static_cast<double>(m_config.every_seconds);
  const bool writing = m_save && !m_save->written();
  std::vector<std::int64_t> votes{wants_to_stop, by_seconds, writing};
  m_world.sum_in_place(votes);
  const bool by_steps = m_config.every_steps > 0 && step % m_config.every_steps == 0;
  return {votes[0] > 0, by_steps || votes[1] > 0, m_save && votes[2] == 0};
}

template <class V>
void CheckpointSaver<V>::save(CheckpointHeader const& header, WorkerState<V>& worker,
                              Progress& progress) {
  const Region region("sdp::train::checkpoint");
  finish(progress);
  heartbeat::phase("checkpoint");
  const Timer blocked;
  worker.exchange().finish_return();
  const SaveOptions options{
      m_config.keep, static_cast<int>(std::min<std::int64_t>(m_config.files, m_world.size()))};
  const auto buffers = worker.checkpoint_buffers();
  m_save.emplace(m_world, m_folder, options, header, buffers);
  try {
    if (m_config.async) {
      m_save->write_in_background(buffers, m_copy);
      m_blocked_seconds = blocked.seconds();
      return;
    }
    m_save->write(buffers);
  } catch (...) {
    m_save.reset();
    throw;
  }
  publish(progress);
}

template <class V>
void CheckpointSaver<V>::finish(Progress& progress) {
  if (!m_save) return;
  const Region region("sdp::train::checkpoint");
  heartbeat::phase("checkpoint");
  publish(progress);
}

/// Ends the present save.
template <class V>
void CheckpointSaver<V>::publish(Progress& progress) {
  const std::int64_t step = m_save->step();
  const Timer blocked;
  SavedCheckpoint saved;
  try {
    saved = m_save->publish();
  } catch (...) {
    m_save.reset();
    throw;
  }
  m_save.reset();
  m_since_save.reset();
  m_longest_seconds = std::max(m_longest_seconds, saved.seconds);
  CheckpointRecord record{step, saved.path, saved.seconds, saved.bytes, saved.seconds};
  if (m_config.async) record.blocked_seconds = m_world.max(m_blocked_seconds + blocked.seconds());
  m_world.collectively([&] {
    if (m_world.is_root()) m_metrics.append(record);
  });
  std::string text = fmt::format("step {}  checkpoint {} ({} in {:.1f} s", step, saved.path,
                                 short_bytes(static_cast<double>(saved.bytes)), saved.seconds);
  if (m_config.async) text += fmt::format(", {:.2f} s of them in its way", record.blocked_seconds);
  progress.note(text + ")");
}

template class CheckpointSaver<float>;
template class CheckpointSaver<double>;
template class CheckpointSaver<kernels::bf16>;

}  // namespace sdp
