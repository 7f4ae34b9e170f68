// SPDX-License-Identifier: Apache-2.0
#include "subnet/design.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <chrono>
#include <cmath>
#include <numeric>
#include <random>
#include <set>

#include "base/error.hpp"
#include "subnet/cyclic_search.hpp"
#include "subnet/spectral.hpp"

namespace sdp {
namespace {

HolderSet make_set(std::vector<int> const& members) {
  HolderSet set = 0;
  for (int member : members) set |= HolderSet{1} << member;
  return set;
}

std::string error_of(auto&& f) {
  try {
    f();
  } catch (ConfigError const& error) {
    return error.what();
  }
  return "";
}

double gap(Design design, int n, int k) {
  return spectral_gap(holder_sets(design, n, k), n);
}

TEST(Spectral, KnownGapsOfEightSubnetworks) {
  EXPECT_NEAR(gap(Design::windows, 8, 4), 0.5732, 5e-5);
  EXPECT_NEAR(gap(Design::cyclic, 8, 4), 0.75, 1e-12);
  EXPECT_NEAR(gap(Design::orbits, 8, 4), 0.8125, 1e-12);
  EXPECT_NEAR(gap(Design::plane, 8, 4), 6.0 / 7.0, 1e-12);
  EXPECT_NEAR(spectral_gap_bound(8, 4), 6.0 / 7.0, 1e-15);
  EXPECT_NEAR(gap(Design::windows, 8, 2), 0.1464, 5e-5);
  EXPECT_NEAR(gap(Design::orbits, 8, 2), 0.5, 1e-12);
  EXPECT_NEAR(gap(Design::windows, 8, 6), 0.9052, 5e-5);
}

TEST(Spectral, Limits) {
  EXPECT_EQ(spectral_gap({1}, 1), 1.0);
  EXPECT_EQ(spectral_gap({}, 4), 1.0);
  EXPECT_EQ(spectral_gap_bound(1, 1), 1.0);
  EXPECT_EQ(spectral_gap({0b0011, 0b1100}, 4), 0.0);
  EXPECT_EQ(spectral_gap({0b0111}, 4), 0.0) << "a subnetwork without units";
  EXPECT_NEAR(spectral_gap({0b1111}, 4), 1.0, 1e-14);
  for (int n : {2, 3, 8, 17, 64}) EXPECT_EQ(gap(Design::windows, n, 1), 0.0);
}

/// lambda_2 of an uneven mask by power iteration on the part orthogonal to sqrt(degree).
TEST(Spectral, AgreesWithPowerIteration) {
  std::mt19937 generator(7);
  const int n = 13;
  std::vector<HolderSet> holders;
  for (int u = 0; u < 40; ++u) {
    HolderSet set = 0;
    while (std::popcount(set) < 5) set |= HolderSet{1} << generator() % n;
    holders.push_back(set);
  }
  std::vector<double> degree(n, 0.0);
  for (HolderSet set : holders)
    for (int i = 0; i < n; ++i) degree[i] += static_cast<double>(set >> i & 1);
  std::vector<double> x(n);
  for (int i = 0; i < n; ++i) x[i] = std::sin(1.0 + i);
  double lambda = 0.0;
  for (int iteration = 0; iteration < 2000; ++iteration) {
    double along = 0.0, total = 0.0;
    for (int i = 0; i < n; ++i) {
      along += x[i] * std::sqrt(degree[i]);
      total += degree[i];
    }
    double norm = 0.0;
    for (int i = 0; i < n; ++i) {
      x[i] -= along / total * std::sqrt(degree[i]);
      norm += x[i] * x[i];
    }
    std::vector<double> y(n, 0.0);
    for (HolderSet set : holders) {
      double mean = 0.0;
      for (int i = 0; i < n; ++i)
        if (set >> i & 1) mean += x[i] / std::sqrt(degree[i]) / 5.0;
      for (int i = 0; i < n; ++i)
        if (set >> i & 1) y[i] += mean / std::sqrt(degree[i]);
    }
    lambda = 0.0;
    for (int i = 0; i < n; ++i) lambda += y[i] * y[i];
    lambda = std::sqrt(lambda / norm);
    for (int i = 0; i < n; ++i) x[i] = y[i] / std::sqrt(norm);
  }
  EXPECT_NEAR(spectral_gap(holders, n), 1.0 - lambda, 1e-9);
}

TEST(Design, BasesThatAreFound) {
  EXPECT_EQ(to_text(best_base(8, 4)), "{0,1,2,4}");
  // Eight pairs have this gap, and the same eigenvalues; the first of them is taken.
  const auto [first, second] = best_base_pair(8, 4);
  EXPECT_EQ(to_text(first), "{0,1,2,4}");
  EXPECT_EQ(to_text(second), "{0,1,2,5}");
  for (auto const& pair :
       {std::vector{first, second}, {make_set({0, 1, 3, 4}), make_set({0, 1, 4, 6})}})
    EXPECT_NEAR(cyclic_gap(pair, 8, 4), 0.8125, 1e-12);
  const auto [a, b] = best_base_pair(8, 2);
  EXPECT_EQ(to_text(a), "{0,1}");
  EXPECT_EQ(to_text(b), "{0,3}");
  // Perfect difference sets, the projective planes of order 2, 3 and 4: the bound is reached.
  for (auto [n, k] : {std::pair{7, 3}, {13, 4}, {21, 5}})
    EXPECT_NEAR(cyclic_gap({best_base(n, k)}, n, k), spectral_gap_bound(n, k), 1e-12) << n;
}

TEST(Design, PlanesAreThoseOfTheAffineGeometry) {
  const auto sets = holder_sets(Design::plane, 8, 4);
  EXPECT_EQ(sets.size(), 14u);
  // Any three points lie in exactly one plane.
  for (HolderSet points : all_subsets(8, 3))
    EXPECT_EQ(std::count_if(sets.begin(), sets.end(),
                            [&](HolderSet set) { return (set & points) == points; }),
              1);
}

TEST(Design, EveryFamilyIsUniformDistinctAndEven) {
  for (int n = 1; n <= 20; ++n)
    for (int k = 1; k <= n; ++k)
      for (Design design : {Design::windows, Design::cyclic, Design::orbits, Design::plane}) {
        if (!design_exists(design, n, k)) continue;
        const auto sets = holder_sets(design, n, k);
        EXPECT_EQ(std::set<HolderSet>(sets.begin(), sets.end()).size(), sets.size());
        EXPECT_LE(sets.size(), static_cast<std::size_t>(2 * n));
        std::vector<std::size_t> used(static_cast<std::size_t>(n), 0);
        for (HolderSet set : sets) {
          EXPECT_EQ(std::popcount(set), k);
          EXPECT_EQ(set & ~all_subnetworks(n), 0u);
          for (int i = 0; i < n; ++i) used[static_cast<std::size_t>(i)] += set >> i & 1;
        }
        for (std::size_t count : used)
          EXPECT_EQ(count * static_cast<std::size_t>(n), sets.size() * static_cast<std::size_t>(k));
        EXPECT_LE(spectral_gap(sets, n), spectral_gap_bound(n, k) + 1e-12);
      }
}

/// The closed form over differences equals the eigenvalue of the matrix, for short periods too.
TEST(Design, CyclicGapIsTheSpectralGap) {
  for (int n : {4, 6, 8, 9, 12})
    for (int k = 1; k < n; ++k)
      for (HolderSet rest : all_subsets(n - 1, k - 1)) {
        const HolderSet base = rest << 1 | 1;
        ASSERT_NEAR(cyclic_gap({base}, n, k), spectral_gap(rotations(base, n), n), 1e-9)
            << to_text(base);
      }
  auto both = rotations(make_set({0, 1, 4, 5}), 8);
  EXPECT_EQ(both.size(), 4u);
  const auto more = rotations(make_set({0, 1, 3, 4}), 8);
  both.insert(both.end(), more.begin(), more.end());
  EXPECT_NEAR(cyclic_gap({make_set({0, 1, 4, 5}), make_set({0, 1, 3, 4})}, 8, 4),
              spectral_gap(both, 8), 1e-12);
}

TEST(Design, NoBaseIsBetter) {
  for (auto [n, k] : {std::pair{9, 4}, {10, 5}, {12, 5}}) {
    const double found = gap(Design::cyclic, n, k);
    for (HolderSet rest : all_subsets(n - 1, k - 1))
      EXPECT_LE(cyclic_gap({rest << 1 | 1}, n, k), found + 1e-9);
    EXPECT_GE(gap(Design::orbits, n, k), found - 0.1);
  }
}

TEST(Design, LexicographicOrder) {
  EXPECT_TRUE(lexicographically_less(make_set({0, 1, 9}), make_set({0, 2, 3})));
  EXPECT_FALSE(lexicographically_less(make_set({0, 2, 3}), make_set({0, 1, 9})));
  EXPECT_FALSE(lexicographically_less(make_set({0, 2}), make_set({0, 2})));
  EXPECT_EQ(canonical_base(make_set({2, 5, 6, 7}), 8), make_set({0, 1, 2, 5}));
  EXPECT_EQ(rotate(make_set({0, 63}), 1, 64), make_set({0, 1}));
}

TEST(Design, SearchIsFastUpToSixtyFourSubnetworks) {
  const auto start = std::chrono::steady_clock::now();
  for (auto [n, k] :
       {std::pair{64, 32}, {64, 16}, {64, 3}, {64, 61}, {63, 20}, {32, 16}, {22, 7}}) {
    for (Design design : {Design::cyclic, Design::orbits}) {
      const double found = gap(design, n, k);
      EXPECT_GT(found, gap(Design::windows, n, k)) << n << " " << k;
      EXPECT_LE(found, spectral_gap_bound(n, k) + 1e-12);
    }
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_LT(seconds.count(), 20.0);
}

TEST(Design, RefusesWhatDoesNotExist) {
  EXPECT_EQ(error_of([] { holder_sets(Design::plane, 6, 3); }),
            "sdp.design is \"plane\", which does not exist for 6 subnetworks and coverage 0.5; "
            "\"windows\", \"cyclic\", \"orbits\" and \"random\" do");
  EXPECT_EQ(error_of([] { holder_sets(Design::orbits, 4, 1); }),
            "sdp.design is \"orbits\", which does not exist for 4 subnetworks and coverage 0.25; "
            "\"windows\", \"cyclic\" and \"random\" do");
  EXPECT_EQ(holders_per_unit(0.5, 8), 4);
  EXPECT_EQ(holders_per_unit(1.0 / 3.0, 3), 1);
  EXPECT_EQ(holders_per_unit(1.0, 1), 1);
  EXPECT_THAT(error_of([] { holders_per_unit(0.3, 8); }),
              testing::EndsWith("the nearest coverage is 0.25"));
  EXPECT_THAT(error_of([] { holders_per_unit(0.01, 8); }),
              testing::EndsWith("the nearest coverage is 0.125"));
  EXPECT_THAT(error_of([] { holders_per_unit(1.2, 4); }),
              testing::EndsWith("the nearest coverage is 1"));
  EXPECT_THAT(error_of([] { holders_per_unit(std::nan(""), 4); }), testing::HasSubstr("nan"));
  EXPECT_THAT(error_of([] { holders_per_unit(0.5, 1); }),
              testing::HasSubstr("one subnetwork holds everything"));
  EXPECT_THAT(error_of([] { holders_per_unit(0.5, 65); }), testing::HasSubstr("from 1 to 64"));
}

}  // namespace
}  // namespace sdp
