// SPDX-License-Identifier: Apache-2.0
#include "kernels/random/fill.hpp"

#include <algorithm>

#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

Values normals(index_t first, index_t count, std::uint64_t seed = 1, std::uint64_t stream = 2) {
  const auto out = nan_vector<double>(count);
  fill_normal(Exec(), seed, stream, first, 0.0, 1.0, out);
  return get_values(out);
}

/// The transform in extended precision from the same bits.
long double reference(std::uint64_t seed, std::uint64_t stream, index_t element) {
  const auto bits = stream_bits(seed, stream, static_cast<std::uint64_t>(element / 2));
  const auto word = [&](int low) {
    return (static_cast<std::uint64_t>(bits[low + 1]) << 32 | bits[low]) >> 11;
  };
  const long double u = (static_cast<long double>(word(0)) + 1.0L) * 0x1p-53L;
  const long double angle = 2.0L * 3.14159265358979323846264338327950288L *
                            (static_cast<long double>(word(2)) * 0x1p-53L);
  const long double radius = std::sqrt(-2.0L * std::log(u));
  return radius * (element % 2 == 0 ? std::cos(angle) : std::sin(angle));
}

TEST(FillNormal, IsTheBoxMullerTransformToDoublePrecision) {
  const auto values = normals(0, 100000);
  for (index_t i = 0; i < 100000; ++i)
    ASSERT_NEAR(values[i], static_cast<double>(reference(1, 2, i)), 2e-15) << i;
}

TEST(FillNormal, PortableFunctionsHoldAtTheEnds) {
  constexpr std::int64_t k_one = std::int64_t(1) << 53;
  EXPECT_EQ(Details::portable_log(k_one), 0.0);
  for (const std::int64_t k : {std::int64_t(1), std::int64_t(2), std::int64_t(3), k_one / 2,
                               k_one / 2 + 1, k_one - 1, std::int64_t(6369051672525773)})
    EXPECT_NEAR(Details::portable_log(k) /
                    static_cast<double>(std::log(static_cast<long double>(k) * 0x1p-53L)),
                1.0, 4e-16)
        << k;
  for (std::int64_t eighth = 0; eighth < 8; ++eighth)
    for (const std::int64_t by : {0, 1, -1}) {
      const std::int64_t k = (eighth * (k_one / 8) + by + k_one) % k_one;
      const auto value = Details::portable_sincos(k);
      const long double angle =
          2.0L * 3.14159265358979323846264338327950288L * static_cast<long double>(k) * 0x1p-53L;
      EXPECT_NEAR(value.sin, static_cast<double>(std::sin(angle)), 2e-16) << k;
      EXPECT_NEAR(value.cos, static_cast<double>(std::cos(angle)), 2e-16) << k;
    }
}

TEST(FillNormal, EverySubRangeHasTheSameBits) {
  const auto whole = normals(0, 5000);
  for (const index_t first : {0, 1, 2, 77, 2047, 2048, 4999})
    for (const index_t count : {0, 1, 2, 3, 1000, 2049}) {
      if (first + count > 5000) continue;
      const auto part = normals(first, count);
      EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + first))
          << first << "+" << count;
    }
  // Far into a tensor: the index has 64 bits.
  const index_t far = (index_t(1) << 40) + 1;
  const auto part = normals(far, 3);
  for (index_t i = 0; i < 3; ++i)
    EXPECT_NEAR(part[i], static_cast<double>(reference(1, 2, far + i)), 2e-15);
}

TEST(FillNormal, SeedsAndStreamsAreIndependent) {
  const index_t count = 200000;
  const auto a = normals(0, count), b = normals(0, count, 2, 2), c = normals(0, count, 1, 3);
  const double bound = 5.0 / std::sqrt(static_cast<double>(count));  // five standard deviations
  EXPECT_NEAR(dot(a, b) / static_cast<double>(count), 0.0, bound);
  EXPECT_NEAR(dot(a, c) / static_cast<double>(count), 0.0, bound);
  double neighbours = 0.0;
  for (index_t i = 1; i < count; ++i) neighbours += a[i] * a[i - 1];
  EXPECT_NEAR(neighbours / static_cast<double>(count), 0.0, bound);
}

TEST(FillNormal, HasTheDistributionOfTheNormal) {
  const index_t count = 200000;
  auto values = normals(0, count);
  const double n = static_cast<double>(count);
  double mean = 0.0, second = 0.0, third = 0.0, fourth = 0.0;
  for (const double z : values) {
    mean += z / n;
    second += z * z / n;
    third += z * z * z / n;
    fourth += z * z * z * z / n;
  }
  // Five standard deviations of each sample moment.
  EXPECT_NEAR(mean, 0.0, 5.0 * std::sqrt(1.0 / n));
  EXPECT_NEAR(second, 1.0, 5.0 * std::sqrt(2.0 / n));
  EXPECT_NEAR(third, 0.0, 5.0 * std::sqrt(15.0 / n));
  EXPECT_NEAR(fourth, 3.0, 5.0 * std::sqrt(96.0 / n));
  std::sort(values.begin(), values.end());
  double distance = 0.0;  // Kolmogorov and Smirnov
  for (index_t i = 0; i < count; ++i) {
    const double phi = 0.5 * std::erfc(-values[i] / std::sqrt(2.0));
    distance = std::max({distance, std::abs(phi - static_cast<double>(i) / n),
                         std::abs(static_cast<double>(i + 1) / n - phi)});
  }
  EXPECT_LT(distance, 1.95 / std::sqrt(n));  // significance 0.001
}

template <class T>
class FillNormalStorage : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(FillNormalStorage, Types);

TYPED_TEST(FillNormalStorage, RoundsOnceAndScales) {
  using T = TypeParam;
  const auto out = nan_vector<T>(999);
  fill_normal(Exec(), 1, 2, 3, 0.5, 0.02, out);
  const auto z = normals(3, 999), values = get_values(out);
  for (index_t i = 0; i < 999; ++i)
    ASSERT_EQ(values[i], static_cast<double>(static_cast<T>(std::fma(0.02, z[i], 0.5)))) << i;
}

TEST(FillNormal, GoldenBits) {
  // Written down so that initial weights never change, whatever the compiler, its flags or the
  // machine.
  const auto values = normals(0, 4, 42, stream_key("lm_head.weight"));
  const double expected[] = {-0x1.86a87dfaf4e5ep-1, 0x1.5fc3da4a0a779p-3, 0x1.3e9d0b9062bd1p-1,
                             -0x1.3a4e10374ba6ep-2};
  for (int i = 0; i < 4; ++i) EXPECT_EQ(values[i], expected[i]) << std::hexfloat << values[i];
}

}  // namespace
}  // namespace sdp::kernels
