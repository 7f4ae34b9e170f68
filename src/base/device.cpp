// SPDX-License-Identifier: Apache-2.0
#include "base/device.hpp"

#include <cstdlib>

#include "base/gpu_runtime.hpp"

namespace sdp {

int visible_devices() {
  int count = 0;
#if defined(SDP_GPU)
  if (SDP_GPU(GetDeviceCount)(&count) != SDP_GPU(Success)) return 0;
#endif
  return count;
}

bool lacks_device() {
#if defined(SDP_GPU)
  return visible_devices() == 0;
#else
  return false;
#endif
}

std::int64_t device_bytes_in_use() {
  std::size_t available = 0, all = 0;
#if defined(SDP_GPU)
  if (SDP_GPU(MemGetInfo)(&available, &all) != SDP_GPU(Success)) return 0;
#endif
  return static_cast<std::int64_t>(all - available);
}

std::vector<std::string> device_arguments(std::vector<std::string> const& given, int node_rank,
                                          int devices) {
  if (devices < 1 || std::getenv("KOKKOS_DEVICE_ID") || std::getenv("KOKKOS_MAP_DEVICE_ID_BY"))
    return {};
  for (std::string const& argument : given)
    for (char const* option : {"--kokkos-device-id", "--kokkos-map-device-id-by"})
      if (argument.rfind(option, 0) == 0) return {};
  return {"--kokkos-device-id=" + std::to_string(node_rank % devices)};
}

}  // namespace sdp
