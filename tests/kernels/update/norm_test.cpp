// SPDX-License-Identifier: Apache-2.0
#include "kernels/update/norm.hpp"

#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

template <class T>
class SumSquares : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(SumSquares, Types);

TYPED_TEST(SumSquares, GivesOneSumPerRowAtItsSlot) {
  using T = TypeParam;
  const auto x = vector_of<T>(noise(500, 1));
  const std::vector<RowSpan> rows{{0, 100, 4}, {100, 1, 0}, {101, 0, 2}, {101, 333, 1}};
  const auto partials = nan_vector<double>(5);
  sum_squares(Exec(), vector_of_items(rows), x, partials);
  const auto values = get_values(x), sums = get_values(partials);
  for (auto const& row : rows) {
    double expected = 0.0;
    for (index_t i = 0; i < row.count; ++i)
      expected += values[row.offset + i] * values[row.offset + i];
    EXPECT_NEAR(sums[row.slot], expected, 1e-12);
  }
  EXPECT_TRUE(std::isnan(sums[3])) << "a slot without a row is left alone";
}

TYPED_TEST(SumSquares, BitsDependOnTheRowAlone) {
  using T = TypeParam;
  // The same row at another offset, in another buffer, among other rows.
  const auto row = noise(1001, 2);
  auto shifted = noise(13, 3);
  shifted.insert(shifted.end(), row.begin(), row.end());
  const auto alone = nan_vector<double>(1), among = nan_vector<double>(2);
  sum_squares(Exec(), vector_of_items<RowSpan>({{0, 1001, 0}}), vector_of<T>(row), alone);
  sum_squares(Exec(), vector_of_items<RowSpan>({{0, 13, 0}, {13, 1001, 1}}), vector_of<T>(shifted),
              among);
  EXPECT_EQ(get_values(alone)[0], get_values(among)[1]);
}

/// The tree as it is defined: stride by stride.
double tree(Values values) {
  for (std::size_t stride = 1; stride < values.size(); stride *= 2)
    for (std::size_t i = 0; i + stride < values.size(); i += 2 * stride)
      values[i] += values[i + stride];
  return values.empty() ? 0.0 : values[0];
}

TEST(TreeSum, HasTheBitsOfTheBinaryTree) {
  for (const index_t size : {0, 1, 2, 3, 7, 1023, 1024, 1025, 3000, 1024 * 1024 + 17}) {
    const auto values = noise(size, 11, -1.0, 3.0);
    const auto result = scalar_of<double>(std::nan(""));
    tree_sum(Exec(), vector_of<double>(values), result);
    EXPECT_EQ(scalar_value(result), tree(values)) << size;
  }
}

struct Clip {
  double norm, factor;
  int skip;
};

Clip clip(double sum, double max_norm) {
  const auto norm = scalar_of<double>(std::nan("")), factor = scalar_of<double>(std::nan(""));
  const auto skip = scalar_of<int>(7);
  clip_factor(Exec(), scalar_of<double>(sum), max_norm, norm, factor, skip);
  return {scalar_value(norm), scalar_value(factor), scalar_value(skip)};
}

TEST(ClipFactor, ClipsLongGradientsOnly) {
  const Clip longer = clip(16.0, 1.0);
  EXPECT_EQ(longer.norm, 4.0);
  EXPECT_EQ(longer.factor, 1.0 / (4.0 + 1e-6));
  EXPECT_EQ(longer.skip, 0);
  EXPECT_EQ(clip(0.25, 1.0).factor, 1.0);
  EXPECT_EQ(clip(0.0, 1.0).factor, 1.0);
  EXPECT_EQ(clip(16.0, 0.0).factor, 1.0) << "no clipping";
  EXPECT_EQ(clip(16.0, 0.0).norm, 4.0);
}

TEST(ClipFactor, SkipsNonFiniteSteps) {
  for (const double sum : {HUGE_VAL, std::nan(""), -std::nan("")})
    for (const double max_norm : {0.0, 1.0}) {
      const Clip result = clip(sum, max_norm);
      EXPECT_EQ(result.skip, 1);
      EXPECT_EQ(result.factor, 0.0);
      EXPECT_FALSE(std::isfinite(result.norm));
    }
}

}  // namespace
}  // namespace sdp::kernels
