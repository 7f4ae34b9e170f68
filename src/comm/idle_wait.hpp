// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <thread>

#include "base/timer.hpp"

namespace sdp {

/// How a loop waits that polls for messages of other ranks.
class IdleWait {
 public:
  /// `timeout_seconds`: longest time without progress; 0: for ever.
  explicit IdleWait(double timeout_seconds) : m_timeout(timeout_seconds) {}

  void moved() { m_idle.reset(); }
  /// Call when a round of the loop moved nothing; true when the time is over.
  bool stuck() {
    const double seconds = m_idle.seconds();
    if (m_timeout > 0.0 && seconds > m_timeout) return true;
    // Another rank may need this core to go on; giving it away at once would cost a time slice
    // where some other process wants it.
    if (seconds > k_spin_seconds) std::this_thread::yield();
    return false;
  }

 private:
  static constexpr double k_spin_seconds = 2e-4;
  double m_timeout;
  Timer m_idle;
};

}  // namespace sdp
