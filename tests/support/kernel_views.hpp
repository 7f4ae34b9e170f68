// SPDX-License-Identifier: Apache-2.0
#pragma once

// Host values in, device Views out and back, for the kernel tests. References are computed in
// double from the values as they were stored, so that only the kernel's own rounding is measured.

#include <gtest/gtest.h>

#include <Kokkos_Core.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kernels/core/concepts.hpp"

namespace sdp::test {

using kernels::index_t;
using Exec = Kokkos::DefaultExecutionSpace;
using Values = std::vector<double>;

template <class T>
using Vector = Kokkos::View<T*, Kokkos::LayoutRight>;
template <class T>
using Matrix = Kokkos::View<T**, Kokkos::LayoutRight>;
template <class T>
using Scalar = Kokkos::View<T>;

/// Distance from 1 to the next number of a storage type.
template <class T>
constexpr double epsilon() {
  if constexpr (std::is_same_v<T, kernels::bf16>)
    return 0.0078125;
  else
    return std::numeric_limits<T>::epsilon();
}

/// `count` numbers in [low, high) that differ with the salt.
inline Values noise(index_t count, std::uint64_t salt, double low = -1.0, double high = 1.0) {
  Values values(static_cast<std::size_t>(count));
  std::uint64_t state = salt * 0x9E3779B97F4A7C15u + 0x2545F4914F6CDD1Du;
  for (double& value : values) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    value = low + (high - low) * static_cast<double>(state >> 11) * 0x1.0p-53;
  }
  return values;
}

template <class V>
void set_values(V const& view, Values const& values) {
  auto host = Kokkos::create_mirror_view(view);
  ASSERT_EQ(values.size(), view.size());
  using T = kernels::value_t<V>;
  for (std::size_t i = 0; i < values.size(); ++i) host.data()[i] = static_cast<T>(values[i]);
  Kokkos::deep_copy(view, host);
}

/// All elements in row-major order.
template <class V>
Values get_values(V const& view) {
  auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
  Values values(host.size());
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(host.data()[i]);
  return values;
}

template <class T>
Vector<T> vector_of(Values const& values) {
  Vector<T> view("vector", values.size());
  set_values(view, values);
  return view;
}

template <class T>
Matrix<T> matrix_of(index_t rows, index_t cols, Values const& values) {
  Matrix<T> view("matrix", rows, cols);
  set_values(view, values);
  return view;
}

/// Outputs start as NaN, so that an element that is left out shows.
template <class T>
Vector<T> nan_vector(index_t size) {
  return vector_of<T>(Values(static_cast<std::size_t>(size), std::nan("")));
}
template <class T>
Matrix<T> nan_matrix(index_t rows, index_t cols) {
  return matrix_of<T>(rows, cols, Values(static_cast<std::size_t>(rows * cols), std::nan("")));
}

template <class T>
Vector<T> vector_of_items(std::vector<T> const& items) {
  Vector<T> view("items", items.size());
  auto host = Kokkos::create_mirror_view(view);
  for (std::size_t i = 0; i < items.size(); ++i) host(i) = items[i];
  Kokkos::deep_copy(view, host);
  return view;
}

template <class T>
Scalar<T> scalar_of(T value) {
  Scalar<T> view("scalar");
  Kokkos::deep_copy(view, value);
  return view;
}
template <class T>
T scalar_value(Scalar<T> const& view) {
  T value;
  Kokkos::deep_copy(value, view);
  return value;
}

/// |actual - expected| <= tolerance * max(|expected|, scale), element by element; NaN fails. Where
/// that is wide for values of a type, the norm of the difference over that of the values is held to
/// 1e-5 in single precision and 1e-2 in bf16.
inline void expect_close(Values const& actual, Values const& expected, double tolerance,
                         double scale, std::string const& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double bound = tolerance * std::max(std::abs(expected[i]), scale);
    ASSERT_LE(std::abs(actual[i] - expected[i]), bound)
        << what << " [" << i << "]: " << actual[i] << ", expected " << expected[i];
  }
  double difference = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    norm += std::max(expected[i] * expected[i], scale * scale);
  }
  if (tolerance > 1e-5) {
    EXPECT_LE(std::sqrt(difference), (tolerance < 1e-3 ? 1e-5 : 1e-2) * std::sqrt(norm)) << what;
  }
}

/// The same bits in every element, NaN included.
template <class V>
bool same_bits(V const& a, V const& b) {
  auto host_a = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), a);
  auto host_b = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), b);
  return host_a.size() == host_b.size() &&
         std::memcmp(host_a.data(), host_b.data(),
                     host_a.size() * sizeof(typename V::value_type)) == 0;
}

/// Central differences of a scalar function of many values.
template <class F>
Values numeric_gradient(F const& f, Values x, double step = 1e-5) {
  Values gradient(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double centre = x[i];
    x[i] = centre + step;
    const double above = f(x);
    x[i] = centre - step;
    const double below = f(x);
    x[i] = centre;
    gradient[i] = (above - below) / (2.0 * step);
  }
  return gradient;
}

inline double dot(Values const& a, Values const& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

/// The message of the exception of type E that `f` throws; a failure when it throws none.
template <class E, class F>
std::string message_of(F const& f) {
  try {
    f();
  } catch (E const& error) {
    return error.what();
  }
  ADD_FAILURE() << "no exception";
  return {};
}

}  // namespace sdp::test
