// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <string>

#include "kernels/core/concepts.hpp"

namespace sdp::kernels {

// Rows are worked on by teams. On a host backend a team is one thread whose inner loops the
// compiler turns into vector instructions; on a device it is a block whose threads share the
// columns. The helpers below hide that difference and fix the order of every reduction: sums depend
// on the row's length alone (on a device also on the team's size, which follows from that length
// or is fixed).

/// Whether an execution space computes on the cores of the host.
template <ExecutionSpace Exec>
inline constexpr bool k_on_cpu = std::is_same_v<typename Exec::memory_space, Kokkos::HostSpace>;

/// Whether kernels take their paths for host cores. SDP_KERNELS_DEVICE_PATHS has them take those of
/// devices there.
#if defined(SDP_KERNELS_DEVICE_PATHS)
template <ExecutionSpace Exec>
inline constexpr bool k_is_host = false;
#else
template <ExecutionSpace Exec>
inline constexpr bool k_is_host = k_on_cpu<Exec>;
#endif

/// Threads of a team that has `device` of them on a device. Device paths on the host get all
/// threads of the backend, or half of them from four on, so that teams also run side by side.
template <ExecutionSpace Exec>
int team_size([[maybe_unused]] Exec const& exec, int device) {
  if constexpr (k_is_host<Exec>) {
    return 1;
  } else if constexpr (k_on_cpu<Exec>) {
    constexpr int k_most = 64;  // of Kokkos
    const int threads = static_cast<int>(exec.concurrency());
    return std::min({device, k_most, threads < 4 ? threads : threads / 2});
  } else {
    return device;
  }
}

template <ExecutionSpace Exec>
using RowPolicy = Kokkos::TeamPolicy<Exec, Kokkos::IndexType<int>>;

template <ExecutionSpace Exec>
using RowMember = typename RowPolicy<Exec>::member_type;

/// The most threads of a device's team of a row.
inline constexpr index_t k_row_team = 256;

/// Threads of a device's team for a row of `items` pieces of work: in steps of a warp, so that few
/// idle.
inline int row_team_size(index_t items) {
  constexpr index_t k_warp = 32;
  return static_cast<int>(std::clamp((items + k_warp - 1) / k_warp * k_warp, k_warp, k_row_team));
}

/// One team per row (or tile, or block) of `items` pieces of work, which its threads share; at most
/// 2^31 - 1 rows.
template <ExecutionSpace Exec>
RowPolicy<Exec> row_policy(Exec const& exec, index_t rows, index_t items = k_row_team) {
  return RowPolicy<Exec>(exec, static_cast<int>(rows), team_size(exec, row_team_size(items)));
}

/// One work item per element.
template <ExecutionSpace Exec>
auto element_policy(Exec const& exec, index_t count) {
  return Kokkos::RangePolicy<Exec, Kokkos::IndexType<index_t>>(exec, 0, count);
}

/// A count that the compiler knows. That of the standard library becomes an int on the host alone.
template <int N>
struct FixedCount {
  KOKKOS_INLINE_FUNCTION constexpr operator int() const { return N; }
};

/// f(j) for j in [0, n), shared among the threads of the team. No barrier at the end.
template <class Member, class F>
KOKKOS_INLINE_FUNCTION void row_for(Member const& team, index_t n, F const& f) {
  if constexpr (k_is_host<typename Member::execution_space>) {
    for (index_t j = 0; j < n; ++j) f(j);
  } else {
    Kokkos::parallel_for(Kokkos::TeamVectorRange(team, n), f);
  }
}

namespace Details {
/// Reduction over 32 interleaved lanes, which vector registers hold, then a binary tree over lanes.
template <class A, class F, class Join>
KOKKOS_INLINE_FUNCTION A lane_reduce(index_t n, A neutral, F const& f, Join const& join) {
  constexpr int k_lanes = 32;
  A lanes[k_lanes];
  for (int lane = 0; lane < k_lanes; ++lane) lanes[lane] = neutral;
  index_t j = 0;
  for (; j + k_lanes <= n; j += k_lanes)
    for (int lane = 0; lane < k_lanes; ++lane) lanes[lane] = join(lanes[lane], f(j + lane));
  for (int lane = 0; j + lane < n; ++lane) lanes[lane] = join(lanes[lane], f(j + lane));
  for (int width = k_lanes / 2; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) lanes[lane] = join(lanes[lane], lanes[lane + width]);
  return lanes[0];
}

/// Kokkos::Max of values from `lowest` on; its own begins at the lowest finite number, which is
/// above -infinity.
template <class A>
struct LargestFrom : Kokkos::Max<A> {
  using reducer = LargestFrom;
  A lowest;
  KOKKOS_INLINE_FUNCTION LargestFrom(A& result, A from) : Kokkos::Max<A>(result), lowest(from) {}
  KOKKOS_INLINE_FUNCTION void init(A& partial) const { partial = lowest; }
};
}  // namespace Details

/// Sum of f(j) over j in [0, n) in type A; every thread of the team gets it. A device team is
/// synchronised by it.
template <class A, class Member, class F>
KOKKOS_INLINE_FUNCTION A row_sum(Member const& team, index_t n, F const& f) {
  if constexpr (k_is_host<typename Member::execution_space>) {
    return Details::lane_reduce(n, A(0), f, [](A a, A b) { return a + b; });
  } else {
    A sum = A(0);
    Kokkos::parallel_reduce(
        Kokkos::TeamVectorRange(team, n), [&](index_t j, A& partial) { partial += f(j); }, sum);
    return sum;
  }
}

/// Largest f(j) over j in [0, n), `lowest` when n = 0; NaN is passed over. Every thread gets it.
template <class A, class Member, class F>
KOKKOS_INLINE_FUNCTION A row_max(Member const& team, index_t n, A lowest, F const& f) {
  if constexpr (k_is_host<typename Member::execution_space>) {
    return Details::lane_reduce(n, lowest, f, [](A a, A b) { return b > a ? b : a; });
  } else {
    A largest = lowest;
    Kokkos::parallel_reduce(
        Kokkos::TeamVectorRange(team, n),
        [&](index_t j, A& partial) {
          const A value = f(j);
          if (value > partial) partial = value;
        },
        Details::LargestFrom<A>(largest, lowest));
    return largest;
  }
}

}  // namespace sdp::kernels
