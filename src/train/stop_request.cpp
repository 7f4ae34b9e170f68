// SPDX-License-Identifier: Apache-2.0
#include "train/stop_request.hpp"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>

namespace sdp {

namespace {

constexpr std::int64_t k_patience_ms = 2000;

volatile sig_atomic_t g_requested = 0;
std::atomic<std::int64_t> g_first_interrupt{-1};  // by the monotonic clock, ms; -1: none yet
static_assert(std::atomic<std::int64_t>::is_always_lock_free, "a handler may use nothing else");

constexpr std::array<int, 4> k_signals = {SIGUSR1, SIGUSR2, SIGTERM, SIGINT};
std::array<struct sigaction, 4> g_previous;
int g_living = 0;
std::int64_t g_born = 0;

std::int64_t monotonic_ms() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{1000} * now.tv_sec + now.tv_nsec / 1000000;
}

extern "C" void on_stop_signal(int number) {
  g_requested = 1;
  if (number != SIGTERM && number != SIGINT) return;
  const std::int64_t now = monotonic_ms();
  std::int64_t first = -1;
  if (!g_first_interrupt.compare_exchange_strong(first, now) && now - first >= k_patience_ms)
    _exit(128 + number);
}

}  // namespace

StopRequest::StopRequest() {
  if (g_living++ > 0) return;
  g_requested = 0;
  g_first_interrupt = -1;
  g_born = monotonic_ms();
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < k_signals.size(); ++i)
    sigaction(k_signals[i], &action, &g_previous[i]);
}

StopRequest::~StopRequest() {
  if (--g_living > 0) return;
  for (std::size_t i = 0; i < k_signals.size(); ++i)
    sigaction(k_signals[i], &g_previous[i], nullptr);
}

bool StopRequest::requested() const {
  return g_requested != 0;
}

double StopRequest::age() const {
  return static_cast<double>(monotonic_ms() - g_born) * 1e-3;
}

}  // namespace sdp
