// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <benchmark/benchmark.h>

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "kernels/core/compat.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/team.hpp"

namespace sdp::bench {

using kernels::index_t;
using Exec = Kokkos::DefaultExecutionSpace;
template <class T>
using Vector = Kokkos::View<T*, Kokkos::LayoutRight>;
template <class T>
using Matrix = Kokkos::View<T**, Kokkos::LayoutRight>;

/// Devices take far larger arrays, and several launches to a measurement: what starts and ends one
/// is long beside a kernel.
inline constexpr bool k_on_device = !kernels::k_is_host<Exec>;
inline constexpr int k_launches = k_on_device ? 10 : 1;

/// The STREAM triad a = b + s * c (McCalpin) on three arrays of doubles, far larger than the
/// caches.
struct Triad {
  static constexpr index_t k_size = index_t(1) << (k_on_device ? 27 : 23);  // 1 GiB or 64 MiB each
  static constexpr double k_bytes = 3.0 * sizeof(double) * k_size;
  static constexpr double k_copy_bytes = 2.0 * sizeof(double) * k_size;
  Vector<double> a{"triad_a", k_size}, b{"triad_b", k_size}, c{"triad_c", k_size};
};

inline std::optional<Triad>& triad_arrays() {
  static std::optional<Triad> arrays;
  return arrays;
}
inline void release_triad() {
  triad_arrays().reset();
}

inline void run_triad() {
  auto& arrays = triad_arrays();
  if (!arrays) arrays.emplace();
  auto* a = arrays->a.data();
  auto const* b = arrays->b.data();
  auto const* c = arrays->c.data();
  Kokkos::parallel_for(
      "sdp::bench::triad", kernels::element_policy(Exec(), Triad::k_size),
      KOKKOS_LAMBDA(index_t i) { a[i] = b[i] + 3.0 * c[i]; });
}

/// a = b, by the copy of the backend.
inline void run_copy() {
  auto& arrays = triad_arrays();
  Kokkos::deep_copy(Exec(), arrays->a, arrays->b);
}

/// Of one launch.
template <class F>
double seconds(F const& f) {
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < k_launches; ++i) f();
  kernels::fence(Exec(), "sdp::bench::seconds");
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() /
         k_launches;
}

/// Runs `kernel` and the triad in turn, so that both meet the same machine, and reports the best
/// time of each, as STREAM does: GB/s of algorithmic bytes, the triad's GB/s beside it, and their
/// ratio. On devices also the same of a copy, whose rate is what kernels there are held against.
template <class F>
void against_triad(benchmark::State& state, double bytes, F const& kernel) {
  kernel();
  run_triad();
  if (k_on_device) run_copy();
  kernels::fence(Exec(), "sdp::bench::warm_up");
  double best = HUGE_VAL, best_triad = HUGE_VAL, best_copy = HUGE_VAL;
  for ([[maybe_unused]] auto _ : state) {
    const double time = seconds(kernel);
    best = std::min(best, time);
    best_triad = std::min(best_triad, seconds(run_triad));
    if (k_on_device) best_copy = std::min(best_copy, seconds(run_copy));
    state.SetIterationTime(time);
  }
  state.counters["GB/s"] = bytes / best / 1e9;
  state.counters["triad_GB/s"] = Triad::k_bytes / best_triad / 1e9;
  state.counters["of_triad"] = bytes / best / (Triad::k_bytes / best_triad);
  if (!k_on_device) return;
  state.counters["copy_GB/s"] = Triad::k_copy_bytes / best_copy / 1e9;
  state.counters["of_copy"] = bytes / best / (Triad::k_copy_bytes / best_copy);
}

}  // namespace sdp::bench
