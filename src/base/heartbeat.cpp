// SPDX-License-Identifier: Apache-2.0
#include "base/heartbeat.hpp"

#include <atomic>
#include <chrono>

namespace sdp::heartbeat {

namespace {

std::int64_t now() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::atomic<std::int64_t> g_last{now()};
std::atomic<char const*> g_phase{"start"};

}  // namespace

void beat() {
  g_last.store(now(), std::memory_order_relaxed);
}
void phase(char const* name) {
  g_phase.store(name, std::memory_order_relaxed);
  beat();
}
char const* current_phase() {
  return g_phase.load(std::memory_order_relaxed);
}
double silence_seconds() {
  return static_cast<double>(now() - g_last.load(std::memory_order_relaxed)) * 1e-3;
}

}  // namespace sdp::heartbeat
