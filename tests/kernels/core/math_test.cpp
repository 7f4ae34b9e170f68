// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/math.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

/// Error of `value` in units of the last place that T has at `exact`.
template <class T>
double ulps(T value, long double exact) {
  int exponent;
  std::frexp(exact, &exponent);
  const long double unit = std::ldexp(1.0L, exponent - std::numeric_limits<T>::digits);
  return static_cast<double>(std::fabs(static_cast<long double>(value) - exact) / unit);
}

TEST(Vexp, FloatIsWithinTwoUlpOverTheWholeRange) {
  double worst = 0.0;
  float at = 0.0f;
  for (const std::uint32_t sign : {0u, 0x80000000u}) {
    // Every 53rd float between 0 and the end of the range.
    for (std::uint32_t pattern = 0;; pattern += 53) {
      const std::uint32_t wide = pattern | sign;
      float x;
      std::memcpy(&x, &wide, sizeof(x));
      if (x > 88.72283f || x < -87.33654f) break;
      const double error = ulps(vexp(x), std::exp(static_cast<double>(x)));
      if (error > worst) {
        worst = error;
        at = x;
      }
    }
  }
  EXPECT_LE(worst, 2.0) << "at " << at;
}

TEST(Vexp, DoubleIsWithinTwoUlpOverTheWholeRange) {
  double worst = 0.0;
  double at = 0.0;
  const auto check = [&](double x) {
    const double error = ulps(vexp(x), std::exp(static_cast<long double>(x)));
    if (error > worst) {
      worst = error;
      at = x;
    }
  };
  for (double x : test::noise(2000000, 1, -708.39, 709.7827128933)) check(x);
  for (double x : test::noise(2000000, 2, -1.0, 1.0)) check(x);
  for (double x = 1e-320; x < 1.0; x *= 1.7) {
    check(x);
    check(-x);
  }
  EXPECT_LE(worst, 2.0) << "at " << at;
}

template <class T>
void check_ends(T lowest, T highest) {
  const T infinity = std::numeric_limits<T>::infinity();
  EXPECT_EQ(vexp(T(0)), T(1));
  EXPECT_EQ(vexp(-T(0)), T(1));
  EXPECT_EQ(vexp(infinity), infinity);
  EXPECT_EQ(vexp(-infinity), T(0));
  EXPECT_EQ(vexp(std::nextafter(highest, infinity)), infinity);
  EXPECT_LT(vexp(highest), infinity);
  EXPECT_GT(vexp(lowest), T(0));
  EXPECT_EQ(vexp(lowest * T(1.01)), T(0));
  EXPECT_EQ(vexp(std::numeric_limits<T>::lowest()), T(0));
  EXPECT_EQ(vexp(std::numeric_limits<T>::max()), infinity);
  EXPECT_TRUE(std::isnan(vexp(std::numeric_limits<T>::quiet_NaN())));
}

TEST(Vexp, SaturatesAndPassesNaN) {
  check_ends<float>(-87.33654f, 88.72283f);
  check_ends<double>(-708.39, 709.782712893384);
}

}  // namespace
}  // namespace sdp::kernels
