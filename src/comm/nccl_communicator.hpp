// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nccl.h>

#include <atomic>
#include <cstdint>
#include <string>

#include "base/heartbeat.hpp"
#include "comm/stream.hpp"
#include "comm/world.hpp"

namespace sdp {

/// Throws CommunicationError "ncclName failed: <text of the library>" unless status is success.
void check_nccl(ncclResult_t status, char const* name);

/// The one NCCL communicator of a process, with all ranks of the world, and the stream on which its
/// messages are queued. A second one would cost as much device memory as the first.
///
/// While it lives, the watchdog asks it for errors that came up on the device or at another rank,
/// and lets it tear down what hangs before the process ends.
class NcclCommunicator {
 public:
  /// Collective. Throws CommunicationError where NCCL cannot connect the ranks.
  explicit NcclCommunicator(World const& world);
  ~NcclCommunicator();
  NcclCommunicator(NcclCommunicator const&) = delete;
  NcclCommunicator& operator=(NcclCommunicator const&) = delete;

  ncclComm_t comm() const { return m_comm; }
  ExecSpace const& exec() const { return m_stream.exec(); }
  cudaStream_t stream() const { return m_stream.exec().cuda_stream(); }

  /// What went wrong since the last call that succeeded, for any thread; empty: nothing.
  std::string fault() const;
  /// Throws CommunicationError where there is a fault.
  void require_health() const;

  /// Runs f, which may make NCCL allocate, and counts the device memory that is gone after it as
  /// memory of communication. What other processes take on the same device meanwhile counts too.
  template <class F>
  void count_memory(F&& f) {
    const std::int64_t before = free_bytes();
    f();
    count(before - free_bytes());
  }

 private:
  static std::int64_t free_bytes();
  void count(std::int64_t bytes);
  void abandon();

  Stream m_stream;
  ncclComm_t m_comm = nullptr;
  std::atomic<bool> m_abandoned{false};
  std::int64_t m_bytes = 0;  ///< in the ledger
  heartbeat::Guard m_guard;
};

}  // namespace sdp
