// SPDX-License-Identifier: Apache-2.0
#include "data/random_samples.hpp"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "data/image_files.hpp"

namespace sdp {
namespace {

using Ints = std::vector<std::int32_t>;

constexpr BatchPlan k_plan{16, 2, 4, 1};

TEST(RandomSamples, TargetsAreTheTokensThatFollow) {
  const auto samples = RandomSamples::tokens(7, 50, 11);
  Ints inputs(100, -1), targets(100, -1);
  samples.read(k_plan, 3, 1, inputs.data(), targets.data());
  std::set<std::int32_t> seen;
  for (int row = 0; row < 2; ++row)
    for (int t = 0; t < 50; ++t) {
      const auto i = static_cast<std::size_t>(row * 50 + t);
      ASSERT_GE(inputs[i], 0);
      ASSERT_LT(inputs[i], 11);
      ASSERT_GE(targets[i], 0);
      ASSERT_LT(targets[i], 11);
      seen.insert(inputs[i]);
      if (t + 1 == 50) continue;
      EXPECT_EQ(targets[i], inputs[i + 1]);
    }
  EXPECT_EQ(seen.size(), 11u) << "every token comes up";
}

TEST(RandomSamples, PlaceAndSeedDecide) {
  const auto read = [](std::uint64_t seed, BatchPlan const& plan, index_t update, index_t step) {
    Ints inputs(40), targets(40);
    RandomSamples::tokens(seed, 20, 30000).read(plan, update, step, inputs.data(), targets.data());
    return inputs;
  };
  const Ints first = read(1, k_plan, 0, 0);
  EXPECT_EQ(read(1, k_plan, 0, 0), first);
  BatchPlan other = k_plan;
  other.rank = 2;
  const std::vector<Ints> different{read(2, k_plan, 0, 0), read(1, k_plan, 1, 0),
                                    read(1, k_plan, 0, 1), read(1, other, 0, 0)};
  for (Ints const& tokens : different) EXPECT_NE(tokens, first);
  EXPECT_EQ(std::set<Ints>(different.begin(), different.end()).size(), different.size());
}

TEST(RandomSamples, ImagesFillTheBatch) {
  const auto samples = RandomSamples::images(3, 3, 10);
  EXPECT_FALSE(samples.has_tokens());
  const auto pixels = static_cast<std::size_t>(2 * 3 * k_image_side * k_image_side);
  std::vector<std::uint8_t> images(pixels + 1, 77);
  Ints labels(3, -1);
  samples.read(k_plan, 0, 0, images.data(), labels.data());
  double mean = 0.0;
  for (std::size_t i = 0; i < pixels; ++i) mean += images[i] / static_cast<double>(pixels);
  EXPECT_NEAR(mean, 127.5, 5.0);
  EXPECT_EQ(images[pixels], 77);
  EXPECT_GE(labels[1], 0);
  EXPECT_LT(labels[1], 10);
  EXPECT_EQ(labels[2], -1);
}

}  // namespace
}  // namespace sdp
