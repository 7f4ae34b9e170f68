// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <thread>

#include "base/heartbeat.hpp"
#include "base/timer.hpp"

namespace sdp {

/// How a loop waits that polls for messages of other ranks.
class IdleWait {
 public:
  /// `timeout_seconds`: longest time without progress; 0: for ever.
  explicit IdleWait(double timeout_seconds) : m_timeout(timeout_seconds) {}

  void moved() {
    m_idle.reset();
    m_reports = 0;
    heartbeat::beat();
  }
  /// Call when a round of the loop moved nothing; true when the time is over.
  bool stuck() {
    const double seconds = m_idle.seconds();
    if (m_timeout > 0.0 && seconds > m_timeout) return true;
    // Another rank may need this core to go on; giving it away at once would cost a time slice
    // where some other process wants it.
    if (seconds > k_spin_seconds) std::this_thread::yield();
    return false;
  }
  /// Whether it is time to say what the loop waits for: once for every second without progress.
  bool report_due() {
    if (m_idle.seconds() < m_reports + 1) return false;
    ++m_reports;
    return true;
  }

 private:
  static constexpr double k_spin_seconds = 2e-4;
  double m_timeout;
  Timer m_idle;
  int m_reports = 0;
};

}  // namespace sdp
