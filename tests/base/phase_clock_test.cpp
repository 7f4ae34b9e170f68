// SPDX-License-Identifier: Apache-2.0
#include "base/phase_clock.hpp"

#include <gtest/gtest.h>

#include "base/timer.hpp"
#include "kernels/core/compat.hpp"

namespace sdp {
namespace {

/// Work that takes `milliseconds` or a little more, wherever it runs.
void work(ExecSpace const& exec, View1<double> const& values, double milliseconds) {
  const Timer timer;
  while (timer.milliseconds() < milliseconds) {
    Kokkos::parallel_for(
        "sdp::test::work", Kokkos::RangePolicy<ExecSpace>(exec, 0, values.extent(0)),
        KOKKOS_LAMBDA(std::size_t i) { values(i) = values(i) * 0.5 + 1.0; });
    kernels::fence(exec, "sdp::test::work");
  }
}

TEST(PhaseClock, DividesWorkIntoPhases) {
  const ExecSpace exec;
  const View1<double> values("values", 100000);
  PhaseClock clock;
  for (int round = 0; round < 2; ++round) {
    clock.restart();
    const Timer whole;
    clock.mark(exec);
    work(exec, values, 20.0);
    clock.mark(exec);
    clock.mark(exec);
    work(exec, values, 40.0);
    clock.mark(exec);
    kernels::fence(exec, "sdp::test::end");
    const double all = whole.milliseconds();
    EXPECT_GE(clock.between(0, 1), 19.0);
    EXPECT_GE(clock.between(2, 3), 39.0);
    EXPECT_LE(clock.between(0, 3), all);
    EXPECT_NEAR(clock.between(0, 3),
                clock.between(0, 1) + clock.between(1, 2) + clock.between(2, 3), 0.1);
  }
}

}  // namespace
}  // namespace sdp
