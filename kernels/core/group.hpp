// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/team.hpp"

// Groups of neighbouring elements, which a thread of a device loads and stores in accesses of 16
// bytes: with narrower ones too few bytes are under way to fill its memory's rate. On host cores a
// group is one element, and the compiler makes vectors of the loops. Which elements make a group
// depends on their number alone, not on addresses.

namespace sdp::kernels {

/// Elements in a group, T being the narrowest type that a kernel moves.
template <ExecutionSpace Exec, class T>
inline constexpr int k_group = k_is_host<Exec> ? 1 : 16 / static_cast<int>(sizeof(T));

/// The values of a group, or of a single element of the rest.
template <class A, int N>
struct Group {
  A values[N];

  KOKKOS_FORCEINLINE_FUNCTION A& operator[](int i) { return values[i]; }
  KOKKOS_FORCEINLINE_FUNCTION A const& operator[](int i) const { return values[i]; }
};

namespace Details {
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Packed {
  T values[N];
};

template <class P>
KOKKOS_FORCEINLINE_FUNCTION bool is_aligned(void const* address) {
  return reinterpret_cast<std::uintptr_t>(address) % alignof(P) == 0;
}
}  // namespace Details

/// N values in type A, from `from` on.
template <class A, class T, int N>
KOKKOS_FORCEINLINE_FUNCTION Group<A, N> load_group(T const* from, FixedCount<N>) {
  Group<A, N> group;
  if constexpr (N == 1) {
    group[0] = static_cast<A>(*from);
  } else {
    using Packed = Details::Packed<T, N>;
    Packed packed;
    if (Details::is_aligned<Packed>(from))
      packed = *reinterpret_cast<Packed const*>(from);
    else
      for (int i = 0; i < N; ++i) packed.values[i] = from[i];
    for (int i = 0; i < N; ++i) group[i] = static_cast<A>(packed.values[i]);
  }
  return group;
}

/// Each value rounded once to T, from `to` on.
template <class A, int N, class T>
KOKKOS_FORCEINLINE_FUNCTION void store_group(Group<A, N> const& group, T* to) {
  if constexpr (N == 1) {
    *to = static_cast<T>(group[0]);
  } else {
    using Packed = Details::Packed<T, N>;
    Packed packed;
    for (int i = 0; i < N; ++i) packed.values[i] = static_cast<T>(group[i]);
    if (Details::is_aligned<Packed>(to))
      *reinterpret_cast<Packed*>(to) = packed;
    else
      for (int i = 0; i < N; ++i) to[i] = packed.values[i];
  }
}

/// load_group from an address that is known to be aligned (see with_aligned_groups): without a
/// branch, so that several of them can be under way.
template <class A, class T, int N>
KOKKOS_FORCEINLINE_FUNCTION Group<A, N> load_aligned_group(T const* from, FixedCount<N>) {
  const auto packed = *reinterpret_cast<Details::Packed<T, N> const*>(from);
  Group<A, N> group;
  for (int i = 0; i < N; ++i) group[i] = static_cast<A>(packed.values[i]);
  return group;
}

/// store_group to an address that is known to be aligned.
template <class A, int N, class T>
KOKKOS_FORCEINLINE_FUNCTION void store_aligned_group(Group<A, N> const& group, T* to) {
  Details::Packed<T, N> packed;
  for (int i = 0; i < N; ++i) packed.values[i] = static_cast<T>(group[i]);
  *reinterpret_cast<Details::Packed<T, N>*>(to) = packed;
}

/// f(FixedCount of N) where matrices with rows of `cols` elements, beginning at these addresses,
/// are made of aligned groups of N, else f(FixedCount of 1).
template <int N, class F, class... T>
void with_aligned_groups(index_t cols, F const& f, T const*... matrices) {
  if constexpr (N > 1)
    if (cols % N == 0 && (Details::is_aligned<Details::Packed<T, N>>(matrices) && ...))
      return f(FixedCount<N>());
  f(FixedCount<1>());
}

/// Groups of N elements and single ones that make up n.
template <int N>
KOKKOS_INLINE_FUNCTION index_t group_count(index_t n) {
  return n / N + n % N;
}

/// f(first element, FixedCount of elements) for number g of them.
template <int N, class F>
KOKKOS_FORCEINLINE_FUNCTION decltype(auto) at_group(index_t g, index_t n, F const& f) {
  if constexpr (N > 1) {
    const index_t groups = n / N;
    if (g < groups) return f(g * N, FixedCount<N>());
    return f(g + groups * (N - 1), FixedCount<1>());
  } else {
    return f(g, FixedCount<1>());
  }
}

/// One work item per group.
template <int N, ExecutionSpace Exec>
auto group_policy(Exec const& exec, index_t n) {
  return element_policy(exec, group_count<N>(n));
}

/// at_group for all groups of [0, n), shared among the threads of the team; a thread always gets
/// the same ones. No barrier at the end.
template <int N, class Member, class F>
KOKKOS_INLINE_FUNCTION void group_for(Member const& team, index_t n, F const& f) {
  row_for(team, group_count<N>(n), [=](index_t g) { at_group<N>(g, n, f); });
}

/// Sum of what f(first element, FixedCount of elements) gives for the groups of [0, n), in type A;
/// every thread of the team gets it. A device team is synchronised by it.
template <class A, int N, class Member, class F>
KOKKOS_INLINE_FUNCTION A group_sum(Member const& team, index_t n, F const& f) {
  return row_sum<A>(team, group_count<N>(n), [=](index_t g) { return at_group<N>(g, n, f); });
}

}  // namespace sdp::kernels
