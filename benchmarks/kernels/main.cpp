// SPDX-License-Identifier: Apache-2.0
#include <benchmark/benchmark.h>

#include <Kokkos_Core.hpp>

#include "benchmarks/kernels/triad.hpp"

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  Kokkos::initialize(argc, argv);
  if (!benchmark::ReportUnrecognizedArguments(argc, argv)) {
    benchmark::RunSpecifiedBenchmarks();
    sdp::bench::release_triad();
  }
  Kokkos::finalize();
  return 0;
}
