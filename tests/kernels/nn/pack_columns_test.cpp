// SPDX-License-Identifier: Apache-2.0
#include "kernels/nn/pack_columns.hpp"

#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

TEST(PackColumns, PutsRunsWhereTheyBelongAndTouchesNothingElse) {
  for (const index_t rows : {0, 1, 5}) {
    const index_t cols = 13, packed_cols = 7;
    const Values values = noise(rows * cols, 3);
    const auto x = matrix_of<float>(rows, cols, values);
    const auto xs = get_values(x);
    const auto runs = vector_of_items<ColumnRun>({{1, 0, 2}, {4, 2, 1}, {8, 9, 0}, {10, 4, 3}});
    const auto packed = matrix_of<float>(
        rows, packed_cols, Values(static_cast<std::size_t>(rows * packed_cols), 42.0));
    pack_columns(Exec(), runs, x, packed);
    const auto out = get_values(packed);
    const int source[] = {1, 2, 4, -1, 10, 11, 12};
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < packed_cols; ++j)
        EXPECT_EQ(out[i * packed_cols + j], source[j] < 0 ? 42.0 : xs[i * cols + source[j]]);
  }
}

TEST(PackColumns, RefusesOtherRows) {
  const auto x = nan_matrix<double>(3, 4), packed = nan_matrix<double>(2, 4);
  const auto runs = vector_of_items<ColumnRun>({{0, 0, 1}});
  EXPECT_NE(
      message_of<ShapeError>([&] { pack_columns(Exec(), runs, x, packed); }).find("pack_columns"),
      std::string::npos);
}

}  // namespace
}  // namespace sdp::kernels
