// SPDX-License-Identifier: Apache-2.0
// What the benchmarks of memory-bound kernels share: their arrays, and the shapes that they run on.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>

#include "benchmarks/kernels/triad.hpp"
#include "kernels/random/fill.hpp"

namespace sdp::bench {

using kernels::accum_t;
using kernels::bf16;

/// Elements of an array: on a device of 1 GiB, so that nothing of it is in a cache from one launch
/// to the next.
template <class T>
inline constexpr index_t k_elements = k_on_device
                                          ? (index_t(1) << 30) / static_cast<index_t>(sizeof(T))
                                          : index_t(1) << 24;
constexpr index_t k_host_columns = 1024;
constexpr index_t k_vocabulary = 32000;

/// Rows of an array.
template <class T>
index_t rows_of(index_t columns) {
  return k_elements<T> / columns;
}
template <class T>
double bytes_of(index_t rows, index_t columns) {
  return static_cast<double>(rows * columns) * sizeof(T);
}

/// Normal numbers. The salt tells arrays apart.
template <class T>
Vector<T> vector(std::uint64_t salt, index_t size) {
  const Vector<T> view(Kokkos::view_alloc("vector", Kokkos::WithoutInitializing), size);
  kernels::fill_normal(Exec(), 1, salt, 0, 0.0, 1.0, view);
  return view;
}
template <class T>
Matrix<T> matrix(std::uint64_t salt, index_t rows, index_t columns) {
  const Matrix<T> view(Kokkos::view_alloc("matrix", Kokkos::WithoutInitializing), rows, columns);
  kernels::fill_normal(Exec(), 1, salt, 0, 0.0, 1.0, Vector<T>(view.data(), view.size()));
  return view;
}

/// A copy on the device of what the host made.
template <class T>
Vector<T> from_host(T const* values, index_t size) {
  using HostView = Kokkos::View<T const*, Kokkos::LayoutRight, Kokkos::HostSpace,
                                Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  const Vector<T> view(Kokkos::view_alloc("from_host", Kokkos::WithoutInitializing), size);
  Kokkos::deep_copy(view, HostView(values, static_cast<std::size_t>(size)));
  return view;
}

using Case = void (*)(benchmark::State&, index_t);

inline void add_case(std::string const& name, Case run, index_t columns) {
  auto* registered = benchmark::RegisterBenchmark(
      name.c_str(), [run, columns](benchmark::State& state) { run(state, columns); });
  registered->UseManualTime()->Unit(benchmark::kMillisecond);
  if (k_on_device)
    registered->Iterations(20);
  else
    registered->MinTime(0.5);
}

/// On a host one case of floats; on a device one for each type and number of columns, with both in
/// its name.
inline void add_cases(std::string const& name, Case of_float, Case of_bf16, index_t host_columns,
                      std::initializer_list<index_t> device_columns) {
  if (!k_on_device) return add_case(name, of_float, host_columns);
  for (index_t columns : device_columns) {
    add_case(name + "/float/" + std::to_string(columns), of_float, columns);
    if (of_bf16) add_case(name + "/bf16/" + std::to_string(columns), of_bf16, columns);
  }
}

}  // namespace sdp::bench
