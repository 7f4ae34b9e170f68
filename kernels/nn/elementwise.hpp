// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/group.hpp"

// Element-wise arithmetic on spans. Every View is contiguous, of rank 1 or 2, of any storage type;
// sums are formed in accum_t of the output and rounded once. Each throws ShapeError when the shapes
// differ.

namespace sdp::kernels {

namespace Details {
template <class V>
concept Span = RowMajor<V, 1> || RowMajor<V, 2>;

template <Span V>
index_t span_size(char const* name, char const* what, V const& view) {
  require(view.span_is_contiguous() || view.size() == 0, name,
          std::string(what) + " " + shape_string(view) + " must be contiguous");
  return static_cast<index_t>(view.size());
}

/// The widest of the accumulation types of two storage types.
template <class T, class U>
using widest_t = std::common_type_t<accum_t<T>, accum_t<U>>;

template <class T, class U>
using narrowest_t = std::conditional_t<(sizeof(T) < sizeof(U)), T, U>;
}  // namespace Details

/// out = a + b. out may alias a or b.
template <ExecutionSpace Exec, Details::Span X, Details::Span Y, Details::Span Out>
void add(Exec const& exec, X const& a, Y const& b, Out const& out) {
  constexpr char const* k_name = "sdp::kernels::add";
  using T = value_t<Out>;
  using A = accum_t<T>;
  require_same_shape(k_name, "a", a, "out", out);
  require_same_shape(k_name, "b", b, "out", out);
  const index_t size = Details::span_size(k_name, "out", out);
  Details::span_size(k_name, "a", a);
  Details::span_size(k_name, "b", b);
  auto const* from_a = a.data();
  auto const* from_b = b.data();
  auto* to = out.data();
  constexpr int k_count = k_group<Exec, T>;
  Kokkos::parallel_for(
      k_name, group_policy<k_count>(exec, size), KOKKOS_LAMBDA(index_t g) {
        at_group<k_count>(g, size, [=](index_t i, auto count) {
          auto sum = load_group<A>(from_a + i, count);
          const auto other = load_group<A>(from_b + i, count);
          for (int j = 0; j < count; ++j) sum[j] += other[j];
          store_group(sum, to + i);
        });
      });
}

/// y += alpha * x. y may alias x.
template <ExecutionSpace Exec, Details::Span X, Details::Span Y>
void accumulate(Exec const& exec, double alpha, X const& x, Y const& y) {
  constexpr char const* k_name = "sdp::kernels::accumulate";
  using T = value_t<Y>;
  using A = accum_t<T>;
  require_same_shape(k_name, "x", x, "y", y);
  const index_t size = Details::span_size(k_name, "y", y);
  Details::span_size(k_name, "x", x);
  const A factor = static_cast<A>(alpha);
  auto const* from = x.data();
  auto* to = y.data();
  constexpr int k_count = k_group<Exec, T>;
  Kokkos::parallel_for(
      k_name, group_policy<k_count>(exec, size), KOKKOS_LAMBDA(index_t g) {
        const A weight = factor;
        at_group<k_count>(g, size, [=](index_t i, auto count) {
          auto sum = load_group<A>(to + i, count);
          const auto other = load_group<A>(from + i, count);
          for (int j = 0; j < count; ++j) sum[j] += weight * other[j];
          store_group(sum, to + i);
        });
      });
}

/// x *= alpha.
template <ExecutionSpace Exec, Details::Span X>
void scale(Exec const& exec, double alpha, X const& x) {
  constexpr char const* k_name = "sdp::kernels::scale";
  using T = value_t<X>;
  using A = accum_t<T>;
  const index_t size = Details::span_size(k_name, "x", x);
  const A factor = static_cast<A>(alpha);
  auto* to = x.data();
  constexpr int k_count = k_group<Exec, T>;
  Kokkos::parallel_for(
      k_name, group_policy<k_count>(exec, size), KOKKOS_LAMBDA(index_t g) {
        const A weight = factor;
        at_group<k_count>(g, size, [=](index_t i, auto count) {
          auto values = load_group<A>(to + i, count);
          for (int j = 0; j < count; ++j) values[j] *= weight;
          store_group(values, to + i);
        });
      });
}

/// x = value, rounded once to the storage type.
template <ExecutionSpace Exec, Details::Span X>
void fill(Exec const& exec, double value, X const& x) {
  constexpr char const* k_name = "sdp::kernels::fill";
  const index_t size = Details::span_size(k_name, "x", x);
  const auto stored = static_cast<value_t<X>>(value);
  auto* to = x.data();
  Kokkos::parallel_for(
      k_name, element_policy(exec, size), KOKKOS_LAMBDA(index_t i) { to[i] = stored; });
}

/// out = x, converted between storage types with one rounding to nearest even; a plain copy when
/// the types agree. Neither NaN nor infinity is lost.
template <ExecutionSpace Exec, Details::Span X, Details::Span Out>
void convert(Exec const& exec, X const& x, Out const& out) {
  constexpr char const* k_name = "sdp::kernels::convert";
  using T = value_t<Out>;
  using A = Details::widest_t<value_t<X>, T>;
  require_same_shape(k_name, "x", x, "out", out);
  const index_t size = Details::span_size(k_name, "out", out);
  Details::span_size(k_name, "x", x);
  auto const* from = x.data();
  auto* to = out.data();
  constexpr int k_count = k_group<Exec, Details::narrowest_t<value_t<X>, T>>;
  Kokkos::parallel_for(
      k_name, group_policy<k_count>(exec, size), KOKKOS_LAMBDA(index_t g) {
        at_group<k_count>(g, size, [=](index_t i, auto count) {
          store_group(load_group<A>(from + i, count), to + i);
        });
      });
}

}  // namespace sdp::kernels
