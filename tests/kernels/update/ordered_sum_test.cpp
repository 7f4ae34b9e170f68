// SPDX-License-Identifier: Apache-2.0
#include "kernels/update/ordered_sum.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

namespace sdp::kernels {
namespace {

template <class T>
using Vector = Kokkos::View<T*>;

/// The sum over the leaves [low, low + size) by its definition; `present` says whether there is
/// any.
template <class Acc>
Acc tree(std::vector<int> const& ids, std::vector<Acc> const& values, std::int64_t low,
         std::int64_t size, bool& present) {
  present = false;
  const auto first = std::lower_bound(ids.begin(), ids.end(), low);
  if (first == ids.end() || *first >= low + size) return Acc(0);
  present = true;
  if (size == 1) return values[static_cast<std::size_t>(first - ids.begin())];
  bool has_left = false;
  bool has_right = false;
  const Acc left = tree(ids, values, low, size / 2, has_left);
  const Acc right = tree(ids, values, low + size / 2, size / 2, has_right);
  return has_left && has_right ? left + right : has_left ? left : right;
}

template <class T>
std::vector<T> random_values(index_t size, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<T> values(static_cast<std::size_t>(size));
  for (T& value : values)
    value = static_cast<T>(std::ldexp(normal(generator), static_cast<int>(generator() % 20)));
  return values;
}

template <class T>
Vector<T> device(std::vector<T> const& values) {
  Vector<T> view("values", values.size());
  auto host = Kokkos::create_mirror_view(view);
  std::copy(values.begin(), values.end(), host.data());
  Kokkos::deep_copy(view, host);
  return view;
}

template <class In, class Out>
void check(std::vector<int> const& ids, index_t size, double scale, int alias = -1) {
  using Acc = accum_t<In>;
  std::vector<std::vector<In>> host;
  std::vector<Vector<In>> terms;
  SumTerms<In> sum;
  for (int id : ids) {
    host.push_back(random_values<In>(size, static_cast<unsigned>(id) + 1));
    terms.push_back(device(host.back()));
    sum.add(id, terms.back().data());
  }
  Vector<Out> out("out", static_cast<std::size_t>(size));
  Kokkos::deep_copy(out, static_cast<Out>(std::numeric_limits<float>::quiet_NaN()));
  if constexpr (std::is_same_v<In, Out>)
    if (alias >= 0) out = terms[static_cast<std::size_t>(alias)];
  Kokkos::DefaultExecutionSpace exec;
  ordered_sum(exec, sum, scale, out);
  exec.fence();
  auto result = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), out);
  for (index_t i = 0; i < size; ++i) {
    std::vector<Acc> leaves;
    for (auto const& values : host)
      leaves.push_back(static_cast<Acc>(values[static_cast<std::size_t>(i)]));
    bool present = false;
    const auto expected = static_cast<Out>(
        tree<Acc>(ids, leaves, 0, std::int64_t{1} << 31, present) * static_cast<Acc>(scale));
    ASSERT_EQ(static_cast<double>(result(i)), static_cast<double>(expected))
        << ids.size() << " terms, element " << i << " of " << size;
  }
}

std::vector<int> consecutive(int count) {
  std::vector<int> ids(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) ids[static_cast<std::size_t>(i)] = i;
  return ids;
}

TEST(OrderedSum, FollowsTheTreeForEveryCount) {
  for (int count = 1; count <= 64; ++count)
    check<float, float>(consecutive(count), 67, 1.0 / count);
  check<double, double>(consecutive(7), 67, 1.0 / 7);
  check<bf16, float>(consecutive(5), 67, 1.0 / 5);
  check<bf16, bf16>(consecutive(5), 67, 1.0 / 5);
}

TEST(OrderedSum, SkipsAbsentLeaves) {
  std::mt19937 generator(3);
  for (int round = 0; round < 60; ++round) {
    std::vector<int> ids;
    for (int id = 0; id < 64; ++id)
      if (generator() % 3 == 0) ids.push_back(id);
    if (ids.empty()) ids.push_back(9);
    check<float, float>(ids, 33, 1.0 / static_cast<double>(ids.size()));
  }
  check<double, double>({3, 100, 101, 5000, 16383}, 33, 0.2);
}

TEST(OrderedSum, HoldsTheDeepestStack) {
  std::vector<int> ids{0};  // every next leaf lies in the upper half of what is left
  for (int bit = 30; bit >= 0; --bit) ids.push_back(ids.back() + (1 << bit));
  check<float, float>(ids, 300, 1.0);
}

TEST(OrderedSum, AnyNumberOfTerms) {
  std::mt19937 generator(7);
  for (int count : {1, 5, 64, 65, 128, 300, 4100}) {
    for (bool sparse : {false, true}) {
      std::vector<int> ids;
      for (int id = 0; static_cast<int>(ids.size()) < count; ++id)
        if (!sparse || generator() % 3 == 0) ids.push_back(id);
      const index_t size = 19;
      std::vector<std::vector<float>> host;
      std::vector<Vector<float>> views;
      std::vector<SumTerm<float>> terms;
      for (int id : ids) {
        host.push_back(random_values<float>(size, static_cast<unsigned>(id) + 1));
        views.push_back(device(host.back()));
        terms.push_back({id, views.back().data()});
      }
      auto out = views[static_cast<std::size_t>(count / 2)];
      ordered_sum(Kokkos::DefaultExecutionSpace(), terms, 0.3, out);
      Kokkos::fence();
      auto result = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), out);
      for (index_t i = 0; i < size; ++i) {
        std::vector<float> leaves;
        for (auto const& values : host) leaves.push_back(values[static_cast<std::size_t>(i)]);
        bool present = false;
        ASSERT_EQ(result(i), tree<float>(ids, leaves, 0, std::int64_t{1} << 31, present) * 0.3f)
            << count << " terms";
      }
    }
  }
}

/// Terms and sum rounded to bf16, one term being the buffer of the sum itself.
void check_rounded(std::vector<int> const& ids, int own, index_t size, index_t room) {
  std::vector<std::vector<float>> host;
  std::vector<Vector<bf16>> views;
  std::vector<SumTerm<bf16>> terms;
  Vector<float> out("out", static_cast<std::size_t>(size));
  Kokkos::deep_copy(out, std::numeric_limits<float>::quiet_NaN());
  for (int id : ids) {
    host.push_back(random_values<float>(size, static_cast<unsigned>(id) + 1));
    std::vector<bf16> rounded;
    for (float value : host.back()) rounded.push_back(bf16(value));
    views.push_back(device(rounded));
    terms.push_back({id, id == own ? nullptr : views.back().data()});
    if (id == own) Kokkos::deep_copy(out, device(host.back()));
  }
  const double scale = 1.0 / static_cast<double>(ids.size());
  const Vector<float> partials("partials", static_cast<std::size_t>(room));
  std::vector<SumTerm<float>> groups;
  rounded_ordered_sum(Kokkos::DefaultExecutionSpace(), terms, scale, out, partials, groups);
  Kokkos::fence();
  auto result = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), out);
  for (index_t i = 0; i < size; ++i) {
    std::vector<float> leaves;
    for (auto const& values : host)
      leaves.push_back(static_cast<float>(bf16(values[static_cast<std::size_t>(i)])));
    bool present = false;
    const float sum = tree<float>(ids, leaves, 0, std::int64_t{1} << 31, present);
    ASSERT_EQ(result(i), static_cast<float>(bf16(sum * static_cast<float>(scale))))
        << ids.size() << " terms, element " << i;
  }
}

TEST(OrderedSum, RoundedTermsAndSum) {
  check_rounded({3}, 3, 67, 0);
  check_rounded({0, 1, 2, 3}, 2, 1000, 0);
  check_rounded({0, 2, 5, 9}, 4, 67, 0);  // none of the terms is the worker's own
  check_rounded(consecutive(64), 63, 67, 0);
  for (index_t room : {3, 10, 100, 1000}) check_rounded(consecutive(130), 70, 67, room);
  check_rounded(consecutive(4200), 4199, 5, 300);
  EXPECT_THROW(check_rounded(consecutive(130), 70, 67, 2), ShapeError);
}

TEST(OrderedSum, AnySize) {
  for (index_t size : {0, 1, 2, 255, 256, 257, 1000, 4099})
    check<float, float>({0, 1, 2, 5}, size, 0.25);
}

TEST(OrderedSum, MayOverwriteAnyOfItsTerms) {
  for (int alias = 0; alias < 5; ++alias) check<float, float>({0, 2, 3, 4, 7}, 777, 0.2, alias);
}

TEST(OrderedSum, DiffersFromTheSumInSequence) {
  // Guards the tests above: a kernel that adds from left to right must not pass them.
  const std::vector<int> ids{0, 1, 2, 3};
  bool present = false;
  EXPECT_EQ(tree<float>(ids, {1e8f, 1.0f, -1e8f, 1.0f}, 0, 4, present), 0.0f);
  EXPECT_EQ(((1e8f + 1.0f) + -1e8f) + 1.0f, 1.0f);
}

TEST(OrderedSum, PassesNonFiniteValuesOn) {
  const float infinity = std::numeric_limits<float>::infinity();
  auto a = device<float>({1.0f, infinity, infinity});
  auto b = device<float>({std::nanf(""), 1.0f, -infinity});
  SumTerms<float> sum;
  sum.add(0, a.data());
  sum.add(1, b.data());
  Vector<float> out("out", 3);
  ordered_sum(Kokkos::DefaultExecutionSpace(), sum, 0.5, out);
  Kokkos::fence();
  auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), out);
  EXPECT_TRUE(std::isnan(host(0)));
  EXPECT_EQ(host(1), infinity);
  EXPECT_TRUE(std::isnan(host(2)));
}

TEST(OrderedSum, RefusesBadTerms) {
  Vector<float> out("out", 3);
  SumTerms<float> sum;
  EXPECT_THROW(ordered_sum(Kokkos::DefaultExecutionSpace(), sum, 1.0, out), ShapeError);
  sum.add(4, out.data());
  EXPECT_THROW(sum.add(4, out.data()), ShapeError);
  EXPECT_THROW(sum.add(3, out.data()), ShapeError);
  for (int id = 5; sum.count < 64; ++id) sum.add(id, out.data());
  EXPECT_THROW(sum.add(1000, out.data()), ShapeError);
}

}  // namespace
}  // namespace sdp::kernels
