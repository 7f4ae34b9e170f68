// SPDX-License-Identifier: Apache-2.0
#pragma once

// The only place that knows Kokkos versions (3.4 to 5.x).

#include <Kokkos_Core.hpp>
#include <string>
#include <utility>

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

/// What create_mirror_view returns for a View; the View's own name for it differs between versions.
template <class V>
using host_mirror_t = decltype(Kokkos::create_mirror_view(std::declval<V const&>()));

/// Whether the BLAS calls of Kokkos Kernels take an execution space; those that do not run on the
/// default instance.
inline constexpr bool k_blas_takes_space = KOKKOS_VERSION >= 40000;

/// Kokkos version as text, "3.4.1".
inline std::string kokkos_version() {
  return std::to_string(KOKKOS_VERSION / 10000) + "." + std::to_string(KOKKOS_VERSION / 100 % 100) +
         "." + std::to_string(KOKKOS_VERSION % 100);
}

}  // namespace sdp::kernels
