// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>

namespace sdp {

/// Monotonic stopwatch. It does not fence: fence the execution space before reading it.
class Timer {
 public:
  Timer() : m_start(Clock::now()) {}
  void reset() { m_start = Clock::now(); }
  double seconds() const { return std::chrono::duration<double>(Clock::now() - m_start).count(); }
  double milliseconds() const { return seconds() * 1e3; }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point m_start;
};

}  // namespace sdp
