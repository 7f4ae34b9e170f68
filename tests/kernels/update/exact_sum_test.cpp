// SPDX-License-Identifier: Apache-2.0
#include "kernels/update/exact_sum.hpp"

#include <algorithm>
#include <random>

#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

using Digits = Kokkos::View<std::int64_t*, Kokkos::LayoutRight, Exec::memory_space>;

double value_of(Digits const& digits) {
  const auto result = scalar_of<double>(std::nan(""));
  exact_sum_value(Exec(), digits, result);
  return scalar_value(result);
}

double sum_of(Values const& values) {
  const Digits digits("digits", k_exact_size);
  exact_sum(Exec(), vector_of<double>(values), digits);
  return value_of(digits);
}

TEST(ExactSum, IsExactWhereTheResultIsADouble) {
  EXPECT_EQ(sum_of({}), 0.0);
  for (const double value :
       {0.0, 1.0, 3.5, 1e-300, 4.9e-324, 2.2e-308, 1.0 / 3.0, 1e300, 1.7976931348623157e308})
    EXPECT_EQ(sum_of({value}), value);
  EXPECT_EQ(sum_of({1e16, 1.0, 1.0}), 10000000000000002.0) << "a plain sum loses the ones";
  EXPECT_EQ(sum_of({0x1p100, 0x1p48, 0x1p48}), 0x1p100 + 0x1p49);
  // Carries through a long run of full digits.
  EXPECT_EQ(sum_of({0x1.fffffffffffffp+99, 0x1p+47}), 0x1p+100);
}

TEST(ExactSum, IsCloseToALongDoubleSum) {
  const auto values = noise(20000, 5, 0.0, 3.0);
  long double sum = 0;
  for (double value : values) sum += value;
  EXPECT_NEAR(sum_of(values), static_cast<double>(sum), 1e-15 * static_cast<double>(sum));
}

TEST(ExactSum, BitsDependNeitherOnTheOrderNorOnTheDivision) {
  Values values;
  std::mt19937_64 engine(3);
  for (int i = 0; i < 3000; ++i)
    values.push_back(std::ldexp(std::uniform_real_distribution<>(0.5, 1.0)(engine),
                                static_cast<int>(engine() % 120) - 60));
  const double expected = sum_of(values);
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::shuffle(values.begin(), values.end(), engine);
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(engine() % values.size());
    const Digits left("left", k_exact_size), right("right", k_exact_size);
    exact_sum(Exec(), vector_of<double>(Values(values.begin(), middle)), left);
    exact_sum(Exec(), vector_of<double>(Values(middle, values.end())), right);
    const auto a = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), left);
    const auto b = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), right);
    for (int i = 0; i < k_exact_size; ++i) a(i) += b(i);
    Kokkos::deep_copy(left, a);
    EXPECT_EQ(value_of(left), expected);
  }
}

TEST(ExactSum, ShowsTermsThatAreNotFinite) {
  EXPECT_EQ(sum_of({1.0, std::nan(""), 2.0}), HUGE_VAL);
  EXPECT_EQ(sum_of({HUGE_VAL}), HUGE_VAL);
  EXPECT_EQ(sum_of({1.7976931348623157e308, 1.7976931348623157e308}), HUGE_VAL);
}

}  // namespace
}  // namespace sdp::kernels
