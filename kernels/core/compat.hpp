// SPDX-License-Identifier: Apache-2.0
#pragma once

// The only place that knows Kokkos versions (3.4 to 5.x).

#include <Kokkos_Core.hpp>
#include <string>

namespace sdp::kernels {

/// Waits for the work given to one execution space instance.
template <class Exec>
void fence(Exec const& exec, [[maybe_unused]] char const* label) {
#if KOKKOS_VERSION >= 30500
  exec.fence(label);
#else
  exec.fence();
#endif
}

/// Kokkos version as text, "3.4.1".
inline std::string kokkos_version() {
  return std::to_string(KOKKOS_VERSION / 10000) + "." + std::to_string(KOKKOS_VERSION / 100 % 100) +
         "." + std::to_string(KOKKOS_VERSION % 100);
}

}  // namespace sdp::kernels
