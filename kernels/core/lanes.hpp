// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/core/simd.hpp"
#include "kernels/core/team.hpp"

// Vectors of neighbouring values, which a thread on the host works on together.

namespace sdp::kernels::Details {

#if defined(__CUDACC__)
// nvcc refuses vector types in functions that it might compile for the device.
template <class Exec, class A>
inline constexpr int k_lanes = 1;
#else
/// Values that a thread works on together.
template <class Exec, class A>
inline constexpr int k_lanes = k_is_host<Exec> ? k_simd_bytes / static_cast<int>(sizeof(A)) : 1;
#endif

template <class A, int N>
struct LaneType {
#if !defined(__CUDACC__)
  typedef A type __attribute__((vector_size(N * sizeof(A))));
#endif
};
template <class A>
struct LaneType<A, 1> {
  using type = A;
};
template <class A, int N>
using Lanes = typename LaneType<A, N>::type;

/// The first `count` of N values; N of them where count is that constant.
template <int N, class A, class Count>
KOKKOS_FORCEINLINE_FUNCTION Lanes<A, N> load_lanes(A const* from, Count count) {
  Lanes<A, N> lanes = {};
  if constexpr (std::is_same_v<Count, FixedCount<N>>)
    memcpy(&lanes, from, sizeof(lanes));
  else
    memcpy(&lanes, from, static_cast<std::size_t>(count) * sizeof(A));
  return lanes;
}
template <int N, class A, class Count>
KOKKOS_FORCEINLINE_FUNCTION void store_lanes(Lanes<A, N> const& lanes, A* to, Count count) {
  if constexpr (std::is_same_v<Count, FixedCount<N>>)
    memcpy(to, &lanes, sizeof(lanes));
  else
    memcpy(to, &lanes, static_cast<std::size_t>(count) * sizeof(A));
}

/// Brings the cache line of base[offset] near on a host, to be written where Write. It need not
/// belong to the array.
template <class Exec, bool Write = false, class A>
KOKKOS_FORCEINLINE_FUNCTION void prefetch([[maybe_unused]] A const* base,
                                          [[maybe_unused]] index_t offset) {
#if !defined(__CUDACC__)
  if constexpr (k_is_host<Exec>)
    __builtin_prefetch(
        reinterpret_cast<void const*>(reinterpret_cast<std::uintptr_t>(base) +
                                      static_cast<std::uintptr_t>(offset) * sizeof(A)),
        Write ? 1 : 0);
#endif
}

}  // namespace sdp::kernels::Details
