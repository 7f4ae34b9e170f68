// SPDX-License-Identifier: Apache-2.0
#include "comm/stream.hpp"

#include <string>
#include <utility>

#include "base/error.hpp"
#include "base/gpu_runtime.hpp"
#include "kernels/core/compat.hpp"

namespace sdp {

#if defined(SDP_GPU)

namespace {

void check(SDP_GPU(Error_t) status, char const* name) {
  if (status != SDP_GPU(Success))
    throw CommunicationError(std::string(name) + " failed: " + SDP_GPU(GetErrorString)(status));
}

SDP_GPU(Event_t) event_of(void* handle) {
  return static_cast<SDP_GPU(Event_t)>(handle);
}

}  // namespace

Stream::Stream(ExecSpace const&) {
  int lowest = 0, highest = 0;
  check(SDP_GPU(DeviceGetStreamPriorityRange)(&lowest, &highest), "DeviceGetStreamPriorityRange");
  SDP_GPU(Stream_t) stream{};
  check(SDP_GPU(StreamCreateWithPriority)(&stream, SDP_GPU(StreamNonBlocking), highest),
        "StreamCreateWithPriority");
  m_handle = stream;
  m_exec = std::make_unique<ExecSpace>(stream);
}

Stream::~Stream() {
  m_exec->fence();
  m_exec.reset();
  (void)SDP_GPU(StreamDestroy)(static_cast<SDP_GPU(Stream_t)>(m_handle));
}

StreamEvent::StreamEvent() {
  SDP_GPU(Event_t) event{};
  check(SDP_GPU(EventCreateWithFlags)(&event, SDP_GPU(EventDisableTiming)), "EventCreateWithFlags");
  m_handle = event;
}

StreamEvent::~StreamEvent() {
  if (m_handle != nullptr) (void)SDP_GPU(EventDestroy)(event_of(m_handle));
}

void StreamEvent::mark(ExecSpace const& exec) {
  check(SDP_GPU(EventRecord)(event_of(m_handle), SDP_GPU_STREAM(exec)), "EventRecord");
}

bool StreamEvent::come() const {
  const auto status = SDP_GPU(EventQuery)(event_of(m_handle));
  if (status == SDP_GPU(ErrorNotReady)) return false;
  check(status, "EventQuery");
  return true;
}

void StreamEvent::hold(ExecSpace const& exec) const {
  check(SDP_GPU(StreamWaitEvent)(SDP_GPU_STREAM(exec), event_of(m_handle), 0), "StreamWaitEvent");
}

#else

Stream::Stream(ExecSpace const& otherwise) : m_exec(std::make_unique<ExecSpace>(otherwise)) {}
Stream::~Stream() = default;

StreamEvent::StreamEvent() = default;
StreamEvent::~StreamEvent() = default;
void StreamEvent::mark(ExecSpace const& exec) {
  kernels::fence(exec, "sdp::comm::stream_event");
}
bool StreamEvent::come() const {
  return true;
}
void StreamEvent::hold(ExecSpace const&) const {}

#endif

StreamEvent::StreamEvent(StreamEvent&& other) noexcept
    : m_handle(std::exchange(other.m_handle, nullptr)) {}

}  // namespace sdp
