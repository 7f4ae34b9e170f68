// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/team.hpp"

#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using test::Exec;
using test::Matrix;
using test::Vector;

template <class T>
void reduce_rows(Matrix<T> const& x, Vector<T> const& sums, Vector<T> const& largest, T lowest) {
  const auto cols = static_cast<index_t>(x.extent(1));
  Kokkos::parallel_for(
      "reduce_rows", row_policy(Exec(), static_cast<index_t>(x.extent(0))),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const int row = team.league_rank();
        auto const* values = x.data() + row * cols;
        const T sum = row_sum<T>(team, cols, [=](index_t j) { return values[j]; });
        const T most = row_max<T>(team, cols, lowest, [=](index_t j) { return values[j]; });
        if (team.team_rank() == 0) {
          sums(row) = sum;
          largest(row) = most;
        }
      });
}

TEST(Team, HasWholeWarpsForTheWorkOfARow) {
  for (auto const& [items, threads] : {std::pair<index_t, int>{0, 32},
                                       {1, 32},
                                       {32, 32},
                                       {33, 64},
                                       {96, 96},
                                       {97, 128},
                                       {256, 256},
                                       {257, 256},
                                       {1 << 20, 256}})
    EXPECT_EQ(row_team_size(items), threads) << items;
  EXPECT_EQ(row_policy(Exec(), 1, 40).team_size(), team_size(Exec(), 64));
  EXPECT_EQ(row_policy(Exec(), 1).team_size(), team_size(Exec(), 256));
}

TEST(Team, ReducesRowsOfEveryLength) {
  for (index_t cols : {0, 1, 2, 31, 32, 33, 64, 100, 1023}) {
    const auto x = test::matrix_of<double>(3, cols, test::noise(3 * cols, 7));
    auto sums = test::nan_vector<double>(3), largest = test::nan_vector<double>(3);
    reduce_rows(x, sums, largest, -5.0);
    const auto values = test::get_values(x);
    for (index_t row = 0; row < 3; ++row) {
      double sum = 0.0, most = -5.0;
      for (index_t j = 0; j < cols; ++j) {
        sum += values[row * cols + j];
        most = std::max(most, values[row * cols + j]);
      }
      EXPECT_NEAR(test::get_values(sums)[row], sum, 1e-13) << cols;
      EXPECT_EQ(test::get_values(largest)[row], most) << cols;
    }
  }
}

TEST(Team, LargestOfNothingAndOfInfinitiesIsTheLowest) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (index_t cols : {0, 1, 33, 100}) {
    const auto x = test::matrix_of<double>(2, cols, test::Values(2 * cols, -infinity));
    auto sums = test::nan_vector<double>(2), largest = test::nan_vector<double>(2);
    reduce_rows(x, sums, largest, -infinity);
    for (double value : test::get_values(largest)) EXPECT_EQ(value, -infinity) << cols;
  }
}

TEST(Team, SumDependsOnTheRowAlone) {
  // The same numbers at another place of a matrix give the same bits.
  const index_t cols = 77;
  auto values = test::noise(cols, 3);
  auto twice = values;
  twice.insert(twice.end(), values.begin(), values.end());
  const auto x = test::matrix_of<float>(2, cols, twice);
  auto sums = test::nan_vector<float>(2), largest = test::nan_vector<float>(2);
  reduce_rows(x, sums, largest, -1e30f);
  EXPECT_EQ(test::get_values(sums)[0], test::get_values(sums)[1]);
}

}  // namespace
}  // namespace sdp::kernels
