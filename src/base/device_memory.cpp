// SPDX-License-Identifier: Apache-2.0
#include "base/device_memory.hpp"

#include <Kokkos_Core.hpp>

#if defined(KOKKOS_ENABLE_CUDA)
#include <cuda_runtime_api.h>
#elif defined(KOKKOS_ENABLE_HIP)
#include <hip/hip_runtime_api.h>
#endif

namespace sdp {

std::int64_t device_bytes_in_use() {
#if defined(KOKKOS_ENABLE_CUDA)
  std::size_t available = 0, all = 0;
  if (cudaMemGetInfo(&available, &all) != cudaSuccess) return 0;
  return static_cast<std::int64_t>(all - available);
#elif defined(KOKKOS_ENABLE_HIP)
  std::size_t available = 0, all = 0;
  if (hipMemGetInfo(&available, &all) != hipSuccess) return 0;
  return static_cast<std::int64_t>(all - available);
#else
  return 0;
#endif
}

}  // namespace sdp
