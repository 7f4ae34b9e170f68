// SPDX-License-Identifier: Apache-2.0
#include "train/sample.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

namespace sdp {
namespace {

TEST(DrawToken, ZeroTemperatureTakesTheLargestAndTheLowerOnTies) {
  EXPECT_EQ(draw_token({0.1, 2.0, -1.0}, 0.0, 0, 0.99), 1);
  EXPECT_EQ(draw_token({3.0, 1.0, 3.0}, 0.0, 0, 0.5), 0);
}

TEST(DrawToken, FrequenciesAreTheSoftmax) {
  const std::vector<double> logits = {0.0, std::log(2.0), std::log(5.0)};
  std::map<int, int> count;
  constexpr int k_draws = 8000;
  for (int i = 0; i < k_draws; ++i) ++count[draw_token(logits, 1.0, 0, (i + 0.5) / k_draws)];
  EXPECT_EQ(count[0], k_draws / 8);
  EXPECT_EQ(count[1], k_draws / 4);
  EXPECT_EQ(count[2], k_draws * 5 / 8);
}

TEST(DrawToken, TemperatureSharpensAndTopKCuts) {
  const std::vector<double> logits = {0.0, 1.0, 2.0, -INFINITY};
  int largest = 0;
  for (int i = 0; i < 100; ++i) {
    const double u = (i + 0.5) / 100;
    EXPECT_NE(draw_token(logits, 1.0, 2, u), 0);
    EXPECT_NE(draw_token(logits, 5.0, 0, u), 3);
    if (draw_token(logits, 0.1, 0, u) == 2) ++largest;
  }
  EXPECT_EQ(largest, 100);
}

}  // namespace
}  // namespace sdp
