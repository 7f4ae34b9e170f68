// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Kokkos_Core.hpp>
#include <type_traits>

#include "kernels/core/bf16.hpp"
#include "kernels/core/index.hpp"

namespace sdp::kernels {

namespace Details {
template <class T>
struct IsExecutionSpace : Kokkos::is_execution_space<T> {};

template <class T, class = void>
struct AccumulationType {
  using type = T;
};
template <class T>
struct AccumulationType<T, std::enable_if_t<std::is_same_v<T, bf16>>> {
  using type = float;
};
}  // namespace Details

template <class T>
concept ExecutionSpace = Details::IsExecutionSpace<T>::value;

template <class V>
concept AnyView = Kokkos::is_view<V>::value;

template <class V, int Rank>
concept ViewOfRank = AnyView<V> &&(static_cast<int>(V::rank) == Rank);

/// A View whose last axis is contiguous: any vector that is not strided, LayoutRight otherwise.
/// Kernels walk its rows by pointer.
template <class V, int Rank>
concept RowMajor = ViewOfRank<V, Rank> &&
    (std::is_same_v<typename V::array_layout, Kokkos::LayoutRight> ||
     (Rank < 2 && std::is_same_v<typename V::array_layout, Kokkos::LayoutLeft>));

template <class V>
using value_t = typename V::non_const_value_type;

/// Type in which values of storage type T are added and multiplied: float for bf16, T otherwise.
template <class T>
using accum_t = typename Details::AccumulationType<T>::type;

}  // namespace sdp::kernels
