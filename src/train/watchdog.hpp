// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

namespace sdp {

/// Ends the process with exit code 5 when the heartbeat of this process is silent for longer than
/// `seconds`, after one line that says rank, step, phase and what it waits for. Ranks that wait for
/// a dead or stuck one fall silent with it; since the launcher ends the job when the first of them
/// leaves, each stays for a moment after its line, so that all are heard. Reading and writing a
/// checkpoint is not timed: a slow file system is no fault. A fault that a heartbeat::Guard finds
/// ends the process in the same way, at once.
class Watchdog {
 public:
  Watchdog(int rank, double seconds);
  ~Watchdog();
  Watchdog(Watchdog const&) = delete;
  Watchdog& operator=(Watchdog const&) = delete;

  void set_step(std::int64_t step) { m_step.store(step, std::memory_order_relaxed); }

  /// Stops the clock while it lives.
  class Pause {
   public:
    explicit Pause(Watchdog& watchdog);
    ~Pause();
    Pause(Pause const&) = delete;
    Pause& operator=(Pause const&) = delete;

   private:
    Watchdog& m_watchdog;
  };

 private:
  void watch();
  std::string report(double silence) const;

  int m_rank;
  double m_seconds;
  std::atomic<std::int64_t> m_step{0};
  std::atomic<bool> m_paused{false};
  bool m_done = false;
  std::mutex m_mutex;
  std::condition_variable m_wake;
  std::thread m_thread;
};

}  // namespace sdp
