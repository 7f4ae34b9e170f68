// SPDX-License-Identifier: Apache-2.0
#include "base/heartbeat.hpp"

#include <atomic>
#include <chrono>
#include <mutex>
#include <utility>
#include <vector>

namespace sdp::heartbeat {

namespace {

std::int64_t now() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::atomic<std::int64_t> g_last{now()};
std::atomic<std::int64_t> g_beats{0};
std::atomic<char const*> g_phase{"start"};
std::atomic<char const*> g_collective{nullptr};

std::mutex g_guard_mutex;
std::vector<Guard*> g_guards;

/// A text and the number of beats before it.
struct Waiting {
  std::mutex mutex;
  std::string text;
  std::int64_t beats = -1;
};
Waiting& waiting_text() {
  static Waiting waiting;
  return waiting;
}

}  // namespace

void beat() {
  g_last.store(now(), std::memory_order_relaxed);
  g_beats.fetch_add(1, std::memory_order_relaxed);
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

void set_waiting(std::string text) {
  Waiting& waiting = waiting_text();
  const std::lock_guard lock(waiting.mutex);
  waiting.text = std::move(text);
  waiting.beats = g_beats.load(std::memory_order_relaxed);
}
std::string waiting() {
  if (char const* name = g_collective.load(std::memory_order_relaxed))
    return std::string("waits for all ranks in ") + name;
  Waiting& waiting = waiting_text();
  const std::lock_guard lock(waiting.mutex);
  return waiting.beats == g_beats.load(std::memory_order_relaxed) ? waiting.text : std::string();
}

Collective::Collective(char const* name) {
  g_collective.store(name, std::memory_order_relaxed);
}
Collective::~Collective() {
  g_collective.store(nullptr, std::memory_order_relaxed);
  beat();
}

Guard::Guard(std::function<std::string()> fault, std::function<void()> abandon)
    : m_fault(std::move(fault)), m_abandon(std::move(abandon)) {}
Guard::~Guard() {
  end();
}
void Guard::begin() {
  const std::lock_guard lock(g_guard_mutex);
  g_guards.push_back(this);
}
void Guard::end() {
  const std::lock_guard lock(g_guard_mutex);
  std::erase(g_guards, this);
}

std::string fault() {
  const std::lock_guard lock(g_guard_mutex);
  for (Guard const* guard : g_guards)
    if (std::string text = guard->m_fault(); !text.empty()) return text;
  return {};
}
void abandon() {
  const std::lock_guard lock(g_guard_mutex);
  for (Guard const* guard : g_guards) guard->m_abandon();
}

}  // namespace sdp::heartbeat
