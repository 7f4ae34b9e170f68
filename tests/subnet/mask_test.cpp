// SPDX-License-Identifier: Apache-2.0
#include "subnet/mask.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <map>
#include <numeric>
#include <set>

#include "base/error.hpp"
#include "subnet/balance.hpp"
#include "subnet/cyclic_search.hpp"
#include "subnet/spectral.hpp"
#include "units.hpp"

namespace sdp {
namespace {

using test::make_units;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr Design k_designs[] = {Design::windows, Design::cyclic, Design::orbits,
                                Design::plane,   Design::random, Design::automatic};

MaskSpec spec(int n, int k, Design design = Design::automatic, std::uint64_t seed = 1) {
  MaskSpec spec;
  spec.subnetworks = n;
  spec.coverage = static_cast<double>(k) / n;
  spec.design = design;
  spec.seed = seed;
  return spec;
}

/// Units of a class, and of these how many each subnetwork holds, and each set has.
struct ClassCount {
  int units = 0;
  std::vector<int> held;
  std::map<HolderSet, int> uses;
};

std::vector<ClassCount> count(UnitSet const& units, Mask const& mask) {
  std::vector<ClassCount> counts(units.classes.size());
  for (auto& count : counts) count.held.assign(static_cast<std::size_t>(mask.subnetworks), 0);
  for (std::size_t u = 0; u < units.units.size(); ++u) {
    auto& of = counts[static_cast<std::size_t>(units.units[u].unit_class)];
    ++of.units;
    ++of.uses[mask.holders[u]];
    for (int i = 0; i < mask.subnetworks; ++i)
      of.held[static_cast<std::size_t>(i)] += mask.holds(i, static_cast<int>(u));
  }
  return counts;
}

void check_invariants(UnitSet const& units, Mask const& mask, Design asked) {
  const int n = mask.subnetworks, k = mask.holders_per_unit;
  ASSERT_EQ(mask.holders.size(), units.units.size());
  for (HolderSet set : mask.holders) {
    ASSERT_EQ(std::popcount(set), k);
    ASSERT_EQ(set & ~all_subnetworks(n), 0u);
  }
  EXPECT_NE(mask.design, Design::automatic);
  EXPECT_NEAR(mask.rho, spectral_gap(mask.holders, n), 1e-12);
  if (asked == Design::automatic) {
    EXPECT_LE(mask.distinct_sets().size(), static_cast<std::size_t>(2 * n));
  }
  bool replaced = false, incomplete = false;
  for (auto const& warning : mask.warnings) {
    replaced |= warning.find("consecutive subnetworks instead") != std::string::npos;
    incomplete |= warning.find("hold none of it") != std::string::npos;
  }
  bool some_missing = false;
  for (ClassCount const& of : count(units, mask)) {
    if (of.units == 0) continue;
    const auto missing = std::count(of.held.begin(), of.held.end(), 0);
    some_missing |= missing > 0;
    if (of.units * k >= n) {
      EXPECT_EQ(missing, 0);
    }
    int least = of.units, most = 0;
    const std::size_t family = mask.design == Design::random
                                   ? static_cast<std::size_t>(binomial(n, k, 1 << 20))
                                   : holder_sets(mask.design, n, k).size();
    if (of.uses.size() < family && !replaced) least = 0;
    for (auto const& [set, uses] : of.uses) {
      least = std::min(least, uses);
      most = std::max(most, uses);
    }
    EXPECT_LE(most - least, 1);
    if (mask.design == Design::random && n <= 10) {
      EXPECT_LE(*std::max_element(of.held.begin(), of.held.end()) -
                    *std::min_element(of.held.begin(), of.held.end()),
                1);
    }
  }
  EXPECT_EQ(some_missing, incomplete);
}

TEST(Mask, InvariantsOverManyShapes) {
  int masks = 0;
  for (int n = 1; n <= 10; ++n)
    for (int k = 1; k <= n; ++k)
      for (auto [attention, mlp] : {std::pair{1, 1}, {2, 3}, {4, 4}, {7, 0}, {12, 12}, {5, 33}})
        for (Design design : k_designs) {
          if (design != Design::automatic && !design_exists(design, n, k)) continue;
          const UnitSet units = make_units(attention, mlp);
          SCOPED_TRACE(testing::Message() << "N " << n << " k " << k << " units " << attention
                                          << "+" << mlp << " " << design_name(design));
          const Mask mask = make_mask(units, spec(n, k, design));
          check_invariants(units, mask, design);
          ++masks;
        }
  EXPECT_GT(masks, 1000);
}

TEST(Mask, InvariantsOfLargeOnes) {
  const UnitSet units = make_units(24 * 8, 24 * 64);
  for (auto [n, k] : {std::pair{64, 32}, {64, 1}, {16, 4}, {33, 11}, {8, 4}, {24, 12}})
    for (Design design : k_designs) {
      if (design != Design::automatic && !design_exists(design, n, k)) continue;
      SCOPED_TRACE(testing::Message() << n << " " << k << " " << design_name(design));
      check_invariants(units, make_mask(units, spec(n, k, design)), design);
    }
}

TEST(Mask, UnevenCostsAreBalanced) {
  const UnitSet units = make_units(
      {{"stage1", 16, {900, 700}}, {"stage2", 16, {400, 1100}}, {"stage3", 9, {1, 50, 3000}}});
  for (Design design : {Design::windows, Design::cyclic, Design::random}) {
    const Mask mask = make_mask(units, spec(4, 2, design));
    check_invariants(units, mask, design);
    EXPECT_LT(imbalance(held_cost(units, mask, 0.0)), 1.02) << design_name(design);
  }
}

TEST(Mask, EvenUnitsAreBalancedExactly) {
  for (auto [n, k, layers] : {std::tuple{4, 2, 8}, {8, 4, 8}, {8, 4, 24}, {8, 2, 12}, {8, 6, 4}}) {
    const UnitSet units = make_units(layers, layers);
    const Mask mask = make_mask(units, spec(n, k, Design::windows));
    EXPECT_EQ(imbalance(held_cost(units, mask, 10.0)), 1.0) << n << " " << k << " " << layers;
  }
  // Half of the sixteen sets once more than the other half.
  const UnitSet units = make_units(24, 24);
  for (int k : {2, 4, 6})
    EXPECT_EQ(imbalance(held_cost(units, make_mask(units, spec(8, k, Design::orbits)), 0.0)), 1.0);
}

TEST(Mask, LargeCostsDoNotOverflow) {
  const std::int64_t dear = std::int64_t{1} << 55;
  const UnitSet units = make_units({{"a", 60, {dear, dear / 3}}, {"b", 60, {1}}});
  const Mask mask = make_mask(units, spec(8, 4, Design::windows));
  EXPECT_LT(imbalance(held_cost(units, mask, 0.0)), 1.05);
}

TEST(Mask, AutomaticTakesTheLargestGap) {
  // 56 units use the 14 planes evenly, 48 the rotations of two bases.
  const Mask plane = make_mask(make_units(56, 56), spec(8, 4));
  EXPECT_EQ(plane.design, Design::plane);
  EXPECT_NEAR(plane.rho, 6.0 / 7.0, 1e-12);
  EXPECT_NEAR(plane.rho, plane.rho_bound, 1e-12);
  EXPECT_EQ(plane.distinct_sets().size(), 14u);
  const Mask orbits = make_mask(make_units(48, 48), spec(8, 2));
  EXPECT_EQ(orbits.design, Design::orbits);
  EXPECT_NEAR(orbits.rho, 0.5, 1e-12);
  // A perfect difference set reaches the bound with one base; nothing larger is taken.
  const Mask cyclic = make_mask(make_units(14, 14), spec(7, 3));
  EXPECT_EQ(cyclic.design, Design::cyclic);
  EXPECT_EQ(make_mask(make_units(8, 8), spec(8, 1)).design, Design::windows);
  EXPECT_EQ(make_mask(make_units(8, 8), spec(8, 8)).distinct_sets(),
            std::vector<HolderSet>{all_subnetworks(8)});
}

TEST(Mask, FullCoverageIsHeldByAll) {
  for (int n : {1, 2, 8, 64}) {
    const Mask mask = make_mask(make_units(3, 2), spec(n, n));
    EXPECT_NEAR(mask.rho, 1.0, 1e-12);
    EXPECT_EQ(mask.rho_bound, 1.0);
    EXPECT_TRUE(mask.warnings.empty());
    for (HolderSet set : mask.holders) EXPECT_EQ(set, all_subnetworks(n));
  }
  EXPECT_EQ(full_mask(make_units(3, 2), 4).holders,
            make_mask(make_units(3, 2), spec(4, 4)).holders);
}

TEST(Mask, EverythingProtected) {
  const Mask mask = make_mask(make_units(0, 0), spec(8, 4));
  EXPECT_TRUE(mask.holders.empty());
  EXPECT_EQ(mask.rho, 1.0);
  EXPECT_TRUE(mask.warnings.empty());
}

TEST(Mask, Warnings) {
  const Mask alone = make_mask(make_units(8, 8), spec(8, 1));
  ASSERT_EQ(alone.warnings.size(), 1u);
  EXPECT_THAT(alone.warnings[0], HasSubstr("disconnected"));
  const Mask few = make_mask(make_units(3, 40), spec(8, 2, Design::windows));
  ASSERT_FALSE(few.warnings.empty());
  EXPECT_THAT(few.warnings[0], HasSubstr("class \"attention\" has 3 units on 2 subnetworks each"));
  // No two rotations of {0,1,2,4} reach all of eight subnetworks.
  const Mask replaced = make_mask(make_units(2, 16), spec(8, 4, Design::cyclic));
  ASSERT_FALSE(replaced.warnings.empty());
  EXPECT_THAT(replaced.warnings[0], HasSubstr("class \"attention\" get consecutive"));
  const Mask uneven =
      make_mask(make_units({{"a", 3, {1000, 10, 10}}}), spec(8, 4, Design::windows));
  EXPECT_THAT(uneven.warnings.back(), HasSubstr("cannot be balanced"));
}

TEST(Mask, SeedDrawsAnotherMaskWithTheSameProperties) {
  const UnitSet units = make_units(24, 24);
  for (Design design : {Design::windows, Design::plane, Design::random}) {
    const Mask one = make_mask(units, spec(8, 4, design, 1));
    const Mask again = make_mask(units, spec(8, 4, design, 1));
    const Mask two = make_mask(units, spec(8, 4, design, 2));
    EXPECT_EQ(one.holders, again.holders);
    EXPECT_NE(one.holders, two.holders) << design_name(design);
  }
}

TEST(Mask, RandomHasAsManySetsAsUnits) {
  const Mask large = make_mask(make_units(500, 1500), spec(16, 8, Design::random));
  EXPECT_EQ(large.distinct_sets().size(), 2000u);
  const Mask listed = make_mask(make_units(20, 50), spec(8, 4, Design::random));
  EXPECT_EQ(listed.distinct_sets().size(), 70u);
  const Mask repeated = make_mask(make_units(13, 0), spec(4, 2, Design::random));
  EXPECT_EQ(repeated.distinct_sets().size(), 6u);
}

/// Recorded: a change of any of these changes the masks of users' runs.
TEST(Mask, RecordedMasks) {
  const UnitSet units = make_units({{"attention", 6, {100}}, {"mlp", 6, {170, 170, 171}}});
  const auto holders = [&](int n, int k, Design design) {
    return make_mask(units, spec(n, k, design, 42)).holders;
  };
  EXPECT_THAT(holders(4, 2, Design::windows), ElementsAre(9, 6, 9, 6, 12, 3, 12, 9, 3, 6, 3, 12));
  EXPECT_THAT(holders(8, 4, Design::plane),
              ElementsAre(204, 153, 170, 85, 102, 51, 90, 150, 15, 105, 165, 240));
  EXPECT_THAT(holders(8, 4, Design::random),
              ElementsAre(178, 114, 77, 106, 141, 149, 180, 30, 71, 225, 75, 184));
  EXPECT_THAT(holders(24, 8, Design::orbits),
              ElementsAre(9324688, 4326353, 2331172, 13713923, 1056394, 2112788, 3744322, 250178,
                          14977288, 8980708, 582793, 1318973));
}

}  // namespace
}  // namespace sdp
