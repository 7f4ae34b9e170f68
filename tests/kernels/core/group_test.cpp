// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/group.hpp"

#include <limits>
#include <vector>

#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using test::Exec;
using test::Values;
using test::Vector;

constexpr index_t k_room = 64;  // elements around a row that nobody may touch

/// to[i] = 2 * from[i] in groups of N, both rows beginning `offset` elements into their buffer.
template <int N, class T>
void double_in_groups(Vector<T> const& from, Vector<T> const& to, index_t offset, index_t n) {
  using A = accum_t<T>;
  Kokkos::parallel_for(
      "double_in_groups", row_policy(Exec(), 1), KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        auto const* source = from.data() + offset;
        auto* target = to.data() + offset;
        group_for<N>(team, n, [=](index_t begin, auto count) {
          auto values = load_group<A>(source + begin, count);
          for (int j = 0; j < count; ++j) values[j] *= A(2);
          store_group(values, target + begin);
        });
      });
}

/// The same, one work item per group.
template <int N, class T>
void double_elements(Vector<T> const& from, Vector<T> const& to, index_t offset, index_t n) {
  using A = accum_t<T>;
  auto const* source = from.data() + offset;
  auto* target = to.data() + offset;
  Kokkos::parallel_for(
      "double_elements", group_policy<N>(Exec(), n), KOKKOS_LAMBDA(index_t g) {
        at_group<N>(g, n, [=](index_t begin, auto count) {
          auto values = load_group<A>(source + begin, count);
          for (int j = 0; j < count; ++j) values[j] *= A(2);
          store_group(values, target + begin);
        });
      });
}

template <int N, class T>
void sum_groups(Vector<T> const& x, index_t offset, index_t n, Vector<accum_t<T>> const& result) {
  using A = accum_t<T>;
  Kokkos::parallel_for(
      "sum_groups", row_policy(Exec(), 1), KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        auto const* values = x.data() + offset;
        const A sum = group_sum<A, N>(team, n, [=](index_t begin, auto count) {
          const auto group = load_group<A>(values + begin, count);
          A part = A(0);
          for (int j = 0; j < count; ++j) part += group[j];
          return part;
        });
        if (team.team_rank() == 0) result(0) = sum;
      });
}

template <class T>
class Groups : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(Groups, Types);

TYPED_TEST(Groups, EveryElementOnceFromAnyAddressAndNothingElse) {
  using T = TypeParam;
  constexpr int k_count = 16 / static_cast<int>(sizeof(T));
  for (index_t n : {0, 1, 3, k_count - 1, k_count, k_count + 1, 5 * k_count, 7 * k_count + 2})
    for (index_t offset = 0; offset <= k_count; ++offset) {
      Values numbers(static_cast<std::size_t>(k_room + n));
      for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<double>(i % 100);
      const auto from = test::vector_of<T>(numbers);
      const Values before(numbers.size(), -1.0);
      Values expected = before;
      for (index_t i = offset; i < offset + n; ++i) expected[i] = 2.0 * numbers[i];
      const auto by_team = test::vector_of<T>(before), by_element = test::vector_of<T>(before);
      double_in_groups<k_count>(from, by_team, offset, n);
      double_elements<k_count>(from, by_element, offset, n);
      EXPECT_EQ(test::get_values(by_team), expected) << n << " from " << offset;
      EXPECT_EQ(test::get_values(by_element), expected) << n << " from " << offset;
    }
}

TYPED_TEST(Groups, SumsDependOnTheValuesAlone) {
  using T = TypeParam;
  constexpr int k_count = 16 / static_cast<int>(sizeof(T));
  for (index_t n : {0, 1, k_count, 9 * k_count + 1, 1000}) {
    const Values numbers = test::noise(n, 3);
    std::vector<Values> results;
    for (index_t offset = 0; offset <= k_count; ++offset) {
      Values shifted(static_cast<std::size_t>(offset), 50.0);
      shifted.insert(shifted.end(), numbers.begin(), numbers.end());
      shifted.resize(shifted.size() + k_room, 50.0);
      const auto x = test::vector_of<T>(shifted);
      const auto result = test::nan_vector<accum_t<T>>(1);
      sum_groups<k_count>(x, offset, n, result);
      results.push_back(test::get_values(result));
      EXPECT_EQ(results.back(), results.front()) << n << " from " << offset;
    }
    double sum = 0.0;
    for (double number : numbers)
      sum += static_cast<double>(static_cast<accum_t<T>>(static_cast<T>(number)));
    EXPECT_NEAR(results.front()[0], sum, 1e-4) << n;
  }
}

TYPED_TEST(Groups, AreTakenAsAlignedOnlyWhereThoseOfEveryRowAre) {
  using T = TypeParam;
  constexpr int k_count = 16 / static_cast<int>(sizeof(T));
  const Vector<T> x("x", k_room), y("y", k_room);
  const auto count = [&](index_t cols, index_t first, index_t second) {
    int result = 0;
    with_aligned_groups<k_count>(
        cols, [&](auto n) { result = n; }, x.data() + first, y.data() + second);
    return result;
  };
  EXPECT_EQ(count(3 * k_count, 0, 0), k_count);
  EXPECT_EQ(count(3 * k_count, k_count, 2 * k_count), k_count);
  EXPECT_EQ(count(3 * k_count + 1, 0, 0), 1);
  EXPECT_EQ(count(3 * k_count, 1, 0), 1);
  EXPECT_EQ(count(3 * k_count, 0, 1), 1);
}

}  // namespace
}  // namespace sdp::kernels
