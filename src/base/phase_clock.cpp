// SPDX-License-Identifier: Apache-2.0
#include "base/phase_clock.hpp"

#include <stdexcept>
#include <string>

#include "base/gpu_runtime.hpp"

namespace sdp {

#if defined(SDP_GPU)

namespace {

void check(SDP_GPU(Error_t) status, char const* name) {
  if (status != SDP_GPU(Success))
    throw std::runtime_error(std::string(name) + " failed: " + SDP_GPU(GetErrorString)(status));
}

SDP_GPU(Event_t) event_of(void* handle) {
  return static_cast<SDP_GPU(Event_t)>(handle);
}

}  // namespace

PhaseClock::~PhaseClock() {
  for (void* event : m_events) (void)SDP_GPU(EventDestroy)(event_of(event));
}

void PhaseClock::mark(ExecSpace const& exec) {
  if (m_marks == m_events.size()) {
    SDP_GPU(Event_t) event{};
    check(SDP_GPU(EventCreate)(&event), "EventCreate");
    m_events.push_back(event);
  }
  check(SDP_GPU(EventRecord)(event_of(m_events[m_marks++]), SDP_GPU_STREAM(exec)), "EventRecord");
}

double PhaseClock::between(std::size_t earlier, std::size_t later) const {
  float milliseconds = 0.0f;
  check(SDP_GPU(EventElapsedTime)(&milliseconds, event_of(m_events.at(earlier)),
                                  event_of(m_events.at(later))),
        "EventElapsedTime");
  return static_cast<double>(milliseconds);
}

#else

PhaseClock::~PhaseClock() = default;

void PhaseClock::mark(ExecSpace const&) {
  if (m_marks == m_times.size()) m_times.emplace_back();
  m_times[m_marks++] = Clock::now();
}

double PhaseClock::between(std::size_t earlier, std::size_t later) const {
  return std::chrono::duration<double, std::milli>(m_times.at(later) - m_times.at(earlier)).count();
}

#endif

}  // namespace sdp
