// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <vector>

#include "base/types.hpp"

namespace sdp {

/// Times between moments in the work of an execution space, of which none is waited for: events of
/// the device where the default execution space has them (CUDA, HIP), else times of the host, whose
/// kernels have ended when the calls return.
class PhaseClock {
 public:
  PhaseClock() = default;
  ~PhaseClock();
  PhaseClock(PhaseClock const&) = delete;
  PhaseClock& operator=(PhaseClock const&) = delete;

  /// Forgets all marks. What they need is kept for new ones.
  void restart() { m_marks = 0; }
  /// The next mark: the moment after all work that was given to `exec` until now.
  void mark(ExecSpace const& exec);
  std::size_t marks() const { return m_marks; }
  /// Milliseconds from one mark to another, counted from 0. `exec` has been fenced after the later
  /// one. Throws std::runtime_error when the device does not know.
  double between(std::size_t earlier, std::size_t later) const;

 private:
  using Clock = std::chrono::steady_clock;

  std::vector<Clock::time_point> m_times;
  std::vector<void*> m_events;
  std::size_t m_marks = 0;
};

}  // namespace sdp
