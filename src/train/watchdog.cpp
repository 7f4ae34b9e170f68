// SPDX-License-Identifier: Apache-2.0
#include "train/watchdog.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <future>
#include <memory>

#include "base/error.hpp"
#include "base/heartbeat.hpp"
#include "base/log.hpp"

namespace sdp {

namespace {
constexpr std::chrono::duration<double> k_moment{0.5};
}

Watchdog::Watchdog(int rank, double seconds) : m_rank(rank), m_seconds(seconds) {
  heartbeat::beat();
  m_thread = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
  {
    std::lock_guard lock(m_mutex);
    m_done = true;
  }
  m_wake.notify_one();
  m_thread.join();
}

std::string Watchdog::report(double silence) const {
  const std::string waiting = heartbeat::waiting();
  return fmt::format(
      "rank {}: no progress for {:.0f} s in step {}, phase \"{}\"{}{} (system.watchdog_seconds)",
      m_rank, silence, m_step.load(std::memory_order_relaxed), heartbeat::current_phase(),
      waiting.empty() ? "" : "; ", waiting);
}

void Watchdog::watch() {
  const auto interval = std::chrono::duration<double>(std::clamp(m_seconds / 20.0, 0.05, 2.0));
  std::unique_lock lock(m_mutex);
  while (!m_wake.wait_for(lock, interval, [this] { return m_done; })) {
    const std::string fault = heartbeat::fault();
    const double silence = heartbeat::silence_seconds();
    if (!fault.empty())
      log::error(fmt::format("rank {}: {} in step {}, phase \"{}\"", m_rank, fault,
                             m_step.load(std::memory_order_relaxed), heartbeat::current_phase()));
    else if (m_paused.load(std::memory_order_relaxed) || silence < m_seconds)
      continue;
    else
      log::error(report(silence));
    // The others fell silent at about the same time and look as often as this one.
    if (m_wake.wait_for(lock, k_moment + 2 * interval, [this] { return m_done; })) return;
    // What tears down a transport may hang as well.
    auto abandoned = std::make_shared<std::promise<void>>();
    std::thread([abandoned] {
      heartbeat::abandon();
      abandoned->set_value();
    }).detach();
    abandoned->get_future().wait_for(k_moment);
    // The main thread may be inside MPI for ever, so MPI cannot end the job from here; a process
    // that leaves without a word makes the launcher do it.
    std::_Exit(static_cast<int>(ExitCode::communication));
  }
}

Watchdog::Pause::Pause(Watchdog& watchdog) : m_watchdog(watchdog) {
  m_watchdog.m_paused.store(true, std::memory_order_relaxed);
}
Watchdog::Pause::~Pause() {
  heartbeat::beat();
  m_watchdog.m_paused.store(false, std::memory_order_relaxed);
}

}  // namespace sdp
