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

/// The STREAM triad a = b + s * c (McCalpin) on three arrays of doubles, far larger than the
/// caches.
struct Triad {
  static constexpr index_t k_size = index_t(1) << 23;  // 64 MiB an array
  static constexpr double k_bytes = 3.0 * sizeof(double) * k_size;
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

template <class F>
double seconds(F const& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  kernels::fence(Exec(), "sdp::bench::seconds");
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Runs `kernel` and the triad in turn, so that both meet the same machine, and reports the best
/// time of each, as STREAM does: GB/s of algorithmic bytes, the triad's GB/s beside it, and their
/// ratio.
template <class F>
void against_triad(benchmark::State& state, double bytes, F const& kernel) {
  kernel();
  run_triad();
  kernels::fence(Exec(), "sdp::bench::warm_up");
  double best = HUGE_VAL, best_triad = HUGE_VAL;
  for ([[maybe_unused]] auto _ : state) {
    const double time = seconds(kernel);
    best = std::min(best, time);
    best_triad = std::min(best_triad, seconds(run_triad));
    state.SetIterationTime(time);
  }
  state.counters["GB/s"] = bytes / best / 1e9;
  state.counters["triad_GB/s"] = Triad::k_bytes / best_triad / 1e9;
  state.counters["of_triad"] = bytes / best / (Triad::k_bytes / best_triad);
}

}  // namespace sdp::bench
