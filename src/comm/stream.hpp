// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "base/types.hpp"

namespace sdp {

/// Whether the host can read and write the memory of the execution space. If not, copies and
/// kernels are queued, and the order among them is a matter of streams.
inline constexpr bool k_host_memory = Kokkos::SpaceAccessibility<HostSpace, MemSpace>::accessible;

/// A queue of the device for one purpose, ahead of the others where the device knows priorities:
/// an execution space on a stream of its own. Elsewhere the execution space that it is given.
class Stream {
 public:
  explicit Stream(ExecSpace const& otherwise);
  ~Stream();
  Stream(Stream const&) = delete;
  Stream& operator=(Stream const&) = delete;

  ExecSpace const& exec() const { return *m_exec; }

 private:
  void* m_handle = nullptr;  ///< of the backend
  std::unique_ptr<ExecSpace> m_exec;
};

/// A moment in the work that is given to an execution space. Where the backend has no events, a
/// mark waits until the moment has come.
class StreamEvent {
 public:
  StreamEvent();
  ~StreamEvent();
  StreamEvent(StreamEvent&& other) noexcept;
  StreamEvent(StreamEvent const&) = delete;
  StreamEvent& operator=(StreamEvent const&) = delete;

  /// The moment is after all work that was given to `exec` until now.
  void mark(ExecSpace const& exec);
  /// Whether it has come; true when nothing was marked.
  bool come() const;
  /// Work that is given to `exec` from now on begins after it. Does not wait.
  void hold(ExecSpace const& exec) const;

 private:
  void* m_handle = nullptr;
};

}  // namespace sdp
