// SPDX-License-Identifier: Apache-2.0
#include "comm/nccl_communicator.hpp"

#include <cuda_runtime.h>

#include <exception>

#include "base/error.hpp"
#include "base/memory_ledger.hpp"

namespace sdp {

void check_nccl(ncclResult_t status, char const* name) {
  if (status != ncclSuccess)
    throw CommunicationError(std::string(name) + " failed: " + ncclGetErrorString(status) +
                             " (NCCL_DEBUG=WARN says more)");
}

NcclCommunicator::NcclCommunicator(World const& world)
    : m_stream(ExecSpace()), m_guard([this] { return fault(); }, [this] { abandon(); }) {
  ncclUniqueId id{};
  world.collectively([&] {
    if (world.is_root()) check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
  });
  world.broadcast_bytes(&id, sizeof(id));
  const heartbeat::Collective waits("ncclCommInitRank");
  count_memory([&] {
    ncclComm_t comm = nullptr;
    check_nccl(ncclCommInitRank(&comm, world.size(), id, world.rank()), "ncclCommInitRank");
    m_comm = comm;
  });
  m_guard.begin();
}

NcclCommunicator::~NcclCommunicator() {
  // After a fault, or where messages are under way for ever, NCCL ends by an abort alone.
  const bool broken = m_comm != nullptr && (std::uncaught_exceptions() > 0 || !fault().empty());
  m_guard.end();  // from here on the watchdog does not touch it
  if (broken) abandon();
  if (m_comm != nullptr && !m_abandoned) ncclCommDestroy(m_comm);
  memory_ledger::add(MemoryCategory::communication, -m_bytes);
}

std::string NcclCommunicator::fault() const {
  if (m_abandoned) return {};
  ncclResult_t found = ncclSuccess;
  const ncclResult_t status = ncclCommGetAsyncError(m_comm, &found);
  const ncclResult_t error = status != ncclSuccess ? status : found;
  if (error == ncclSuccess || error == ncclInProgress) return {};
  return std::string("NCCL failed: ") + ncclGetErrorString(error) + " (" +
         ncclGetLastError(m_comm) + ")";
}

void NcclCommunicator::require_health() const {
  const std::string text = fault();
  if (!text.empty()) throw CommunicationError(text);
}

void NcclCommunicator::abandon() {
  if (!m_abandoned.exchange(true)) ncclCommAbort(m_comm);
}

std::int64_t NcclCommunicator::free_bytes() {
  std::size_t free = 0, total = 0;
  return cudaMemGetInfo(&free, &total) == cudaSuccess ? static_cast<std::int64_t>(free) : 0;
}

void NcclCommunicator::count(std::int64_t bytes) {
  if (bytes <= 0) return;
  m_bytes += bytes;
  memory_ledger::add(MemoryCategory::communication, bytes);
}

}  // namespace sdp
