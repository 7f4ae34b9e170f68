// SPDX-License-Identifier: Apache-2.0
#include "train/stop_request.hpp"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <array>

namespace sdp {

namespace {

volatile sig_atomic_t g_requested = 0;
volatile sig_atomic_t g_first_interrupt = 0;  // seconds of the monotonic clock, 0: none yet

constexpr std::array<int, 4> k_signals = {SIGUSR1, SIGUSR2, SIGTERM, SIGINT};
std::array<struct sigaction, 4> g_previous;

extern "C" void on_stop_signal(int number) {
  g_requested = 1;
  if (number != SIGTERM && number != SIGINT) return;
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const auto seconds = static_cast<sig_atomic_t>(now.tv_sec);
  if (g_first_interrupt == 0)
    g_first_interrupt = seconds > 0 ? seconds : 1;
  else if (seconds - g_first_interrupt >= 2)
    _exit(128 + number);
}

}  // namespace

StopRequest::StopRequest() {
  g_requested = 0;
  g_first_interrupt = 0;
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < k_signals.size(); ++i)
    sigaction(k_signals[i], &action, &g_previous[i]);
}

StopRequest::~StopRequest() {
  for (std::size_t i = 0; i < k_signals.size(); ++i)
    sigaction(k_signals[i], &g_previous[i], nullptr);
}

bool StopRequest::requested() const {
  return g_requested != 0;
}

}  // namespace sdp
