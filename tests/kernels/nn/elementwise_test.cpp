// SPDX-License-Identifier: Apache-2.0
#include "kernels/nn/elementwise.hpp"

#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

template <class T>
class Elementwise : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(Elementwise, Types);

TYPED_TEST(Elementwise, MatchesScalarReference) {
  using T = TypeParam;
  for (const index_t size : {0, 1, 7, 64, 1001}) {
    const auto a = vector_of<T>(noise(size, 1)), b = vector_of<T>(noise(size, 2));
    const auto as = get_values(a), bs = get_values(b);
    Values sum(as.size()), axpy(as.size()), scaled(as.size());
    for (std::size_t i = 0; i < as.size(); ++i) {
      sum[i] = as[i] + bs[i];
      axpy[i] = bs[i] - 0.75 * as[i];
      scaled[i] = as[i] * 1.5;
    }
    const auto out = nan_vector<T>(size), copy = nan_vector<T>(size);
    add(Exec(), a, b, out);
    expect_close(get_values(out), sum, epsilon<T>(), 1e-3, "add");
    accumulate(Exec(), -0.75, a, b);
    expect_close(get_values(b), axpy, epsilon<T>(), 1.0, "accumulate");
    convert(Exec(), a, copy);
    EXPECT_TRUE(same_bits(a, copy));
    scale(Exec(), 1.5, a);
    expect_close(get_values(a), scaled, epsilon<T>(), 0.0, "scale");
    fill(Exec(), 0.625, out);
    EXPECT_EQ(get_values(out), Values(static_cast<std::size_t>(size), 0.625));
  }
}

TYPED_TEST(Elementwise, WorksInPlaceAndOnMatrices) {
  using T = TypeParam;
  const auto a = matrix_of<T>(3, 5, noise(15, 1));
  auto doubled = get_values(a);
  for (double& value : doubled) value *= 2.0;
  add(Exec(), a, a, a);
  EXPECT_EQ(get_values(a), doubled);
  accumulate(Exec(), -1.0, a, a);
  EXPECT_EQ(get_values(a), Values(15, 0.0));
}

TEST(ElementwiseConvert, RoundsOnceBetweenStorageTypes) {
  const auto x = vector_of<double>({1.0, 0x1.0100000000001p0, -0x1.01p0, 1e300, std::nan("")});
  const auto narrow = nan_vector<bf16>(5);
  convert(Exec(), x, narrow);
  const auto values = get_values(narrow);
  EXPECT_EQ(values[0], 1.0);
  EXPECT_EQ(values[1], 1.0078125);
  EXPECT_EQ(values[2], -1.0);
  EXPECT_EQ(values[3], HUGE_VAL);
  EXPECT_TRUE(std::isnan(values[4]));
  const auto wide = nan_vector<float>(5);
  convert(Exec(), narrow, wide);
  EXPECT_EQ(get_values(wide)[1], 1.0078125);
  EXPECT_TRUE(std::isnan(get_values(wide)[4]));
}

TEST(ElementwiseShapes, MisfitsAreNamed) {
  const Vector<float> two("two", 2), three("three", 3);
  EXPECT_EQ(message_of<ShapeError>([&] { add(Exec(), two, three, two); }),
            "sdp::kernels::add: b (3) and out (2) do not have the same shape");
  EXPECT_EQ(message_of<ShapeError>([&] { accumulate(Exec(), 1.0, two, three); }),
            "sdp::kernels::accumulate: x (2) and y (3) do not have the same shape");
  EXPECT_EQ(message_of<ShapeError>([&] { convert(Exec(), two, three); }),
            "sdp::kernels::convert: x (2) and out (3) do not have the same shape");
}

}  // namespace
}  // namespace sdp::kernels
