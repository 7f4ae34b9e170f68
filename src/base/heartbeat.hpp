// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>

/// Signs of life of this process, for a watchdog in another thread. Phases are string literals.
namespace sdp::heartbeat {

/// Progress was made. Cheap enough for every small collective.
void beat();
/// A new phase began, which is progress.
void phase(char const* name);
char const* current_phase();
/// Seconds since the last sign of life.
double silence_seconds();

/// Says what this process waits for until the next sign of life, such as "waits for ranks 1, 2".
void set_waiting(std::string text);
/// The last of these texts since the last sign of life, or what a Collective says; else empty.
std::string waiting();

/// Says, while it lives, that this process is inside of an operation of all ranks; its end is a
/// sign of life. `name` is a string literal.
class Collective {
 public:
  explicit Collective(char const* name);
  ~Collective();
  Collective(Collective const&) = delete;
  Collective& operator=(Collective const&) = delete;
};

/// Lets the watchdog, in its thread, look for faults that the main thread would not notice while it
/// waits for a device, and tear down what hangs before the process ends.
class Guard {
 public:
  /// `fault` says what is wrong, or nothing; `abandon` may block. Both come from other threads,
  /// between begin() and end().
  Guard(std::function<std::string()> fault, std::function<void()> abandon);
  ~Guard();
  Guard(Guard const&) = delete;
  Guard& operator=(Guard const&) = delete;

  void begin();
  void end();

 private:
  friend std::string fault();
  friend void abandon();
  std::function<std::string()> m_fault;
  std::function<void()> m_abandon;
};

/// What the first guard that finds something says; empty: nothing, or there is no guard.
std::string fault();
/// Those of all guards.
void abandon();

}  // namespace sdp::heartbeat
