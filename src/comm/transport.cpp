// SPDX-License-Identifier: Apache-2.0
#include "comm/transport.hpp"

#include <mpi.h>
#if __has_include(<mpi-ext.h>)
#include <mpi-ext.h>
#endif

#include <cstdlib>
#include <cstring>

#include "base/error.hpp"
#include "comm/mpi_queue.hpp"
#include "comm/staged_queue.hpp"
#if defined(SDP_HAVE_NCCL)
#include "comm/nccl_queue.hpp"
#endif

namespace sdp {

QueueFactory mpi_queue(bool through_host) {
  return [through_host](World const& world, MessagePlan const& plan) {
    std::unique_ptr<MessageQueue> queue = std::make_unique<MpiQueue>(world, plan);
    if (through_host) queue = std::make_unique<StagedQueue>(std::move(queue), plan);
    return queue;
  };
}

#if defined(SDP_HAVE_NCCL)

QueueFactory nccl_queue(World const& world) {
  return [communicator = std::make_shared<NcclCommunicator>(world)](World const& place,
                                                                    MessagePlan const& plan) {
    return std::make_unique<NcclQueue>(place, communicator, plan);
  };
}

std::string nccl_version() {
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) return "unknown";
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

#else

QueueFactory nccl_queue(World const&) {
  throw on_all_ranks(ConfigError("this sdp was built without NCCL"));
}

std::string nccl_version() {
  return "none";
}

#endif

bool mpi_addresses_devices() {
#if defined(KOKKOS_ENABLE_CUDA) && defined(MPIX_CUDA_AWARE_SUPPORT)
  if (MPIX_Query_cuda_support() == 1) return true;
#endif
#if defined(KOKKOS_ENABLE_HIP) && defined(MPIX_ROCM_AWARE_SUPPORT)
  if (MPIX_Query_rocm_support() == 1) return true;
#endif
  // Cray MPICH and MPICH-based libraries are told by the environment.
  for (char const* variable : {"MPICH_GPU_SUPPORT_ENABLED", "MPIR_CVAR_ENABLE_GPU", "MV2_USE_CUDA"})
    if (char const* value = std::getenv(variable)) return std::strcmp(value, "1") == 0;
  return false;
}

}  // namespace sdp
