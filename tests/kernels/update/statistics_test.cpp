// SPDX-License-Identifier: Apache-2.0
#include "kernels/update/statistics.hpp"

#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

constexpr index_t k_size = 9;

/// Elements 1 to 3 and 6 of the weights, at 4 and 0 of the values, 2 and 1 of the master weights.
Kokkos::View<UpdateBlock*, Exec::memory_space> blocks() {
  return vector_of_items(std::vector<UpdateBlock>{{4, 2, 1, 3, 1.0, 0.0}, {0, 1, 6, 1, 1.0, 0.0}});
}

TEST(StatisticsUpdate, AddsToWhatIsKept) {
  for (double keep : {0.9, 0.0}) {
    Values start = noise(k_size, 1);
    if (keep == 0.0) start[2] = std::nan("");
    const auto values = noise(k_size, 2);
    const auto weight = vector_of<double>(start);
    statistics_update(Exec(), blocks(), keep, scalar_of<int>(0), vector_of<double>(values), weight);
    auto expected = start;
    for (index_t i : {1, 2, 3})
      expected[i] = (keep == 0.0 ? 0.0 : keep * start[i]) + values[i + 3];  // not 0 * NaN
    expected[6] = keep * start[6] + values[0];
    const auto got = get_values(weight);
    for (index_t i = 0; i < k_size; ++i) EXPECT_NEAR(got[i], expected[i], 1e-15) << i;
  }
}

TEST(StatisticsUpdate, SkipsWhereItIsTold) {
  const auto start = noise(k_size, 1);
  const auto weight = vector_of<float>(start);
  const auto before = get_values(weight);
  statistics_update(Exec(), blocks(), 0.5, scalar_of<int>(1), vector_of<float>(noise(k_size, 2)),
                    weight);
  EXPECT_EQ(get_values(weight), before);
}

TEST(StatisticsUpdate, SmallChangesAddUpInTheMasterWeights) {
  // Each change is far below the distance of bf16 numbers; the stored weight is only written.
  const auto master = vector_of<float>(Values(k_size, 1.0));
  const auto weight = vector_of<bf16>(Values(k_size, 7.0));
  const auto value = vector_of<float>(Values(k_size, 0.001 * 2.0));
  for (int step = 0; step < 2000; ++step)
    statistics_update(Exec(), blocks(), 0.999, scalar_of<int>(0), value, master, weight);
  const auto sums = get_values(master), stored = get_values(weight);
  const double expected = 2.0 - std::pow(0.999, 2000);
  for (index_t i : {1, 2, 3, 4}) EXPECT_NEAR(sums[i], expected, 1e-4) << i;
  for (index_t i : {0, 5, 6, 7, 8}) EXPECT_EQ(sums[i], 1.0) << i;
  for (index_t i = 0; i < k_size; ++i) {
    const bool held = i == 6 || (i >= 1 && i <= 3);
    EXPECT_EQ(stored[i], held ? static_cast<float>(bf16(static_cast<float>(sums[1]))) : 7.0) << i;
  }
}

}  // namespace
}  // namespace sdp::kernels
