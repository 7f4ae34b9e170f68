// SPDX-License-Identifier: Apache-2.0
#include "base/device.hpp"

#include <Kokkos_Core.hpp>
#include <cstdlib>

namespace sdp {

int visible_devices() {
  int count = 0;
#if defined(KOKKOS_ENABLE_CUDA)
  if (cudaGetDeviceCount(&count) != cudaSuccess) return 0;
#elif defined(KOKKOS_ENABLE_HIP)
  if (hipGetDeviceCount(&count) != hipSuccess) return 0;
#endif
  return count;
}

bool lacks_device() {
#if defined(KOKKOS_ENABLE_CUDA) || defined(KOKKOS_ENABLE_HIP)
  return visible_devices() == 0;
#else
  return false;
#endif
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
