// SPDX-License-Identifier: Apache-2.0
#include "base/median.hpp"

#include <gtest/gtest.h>

namespace sdp {
namespace {

TEST(Median, IsTheMiddleOrTheMeanOfTwo) {
  EXPECT_EQ(median({}), 0.0);
  EXPECT_EQ(median({4.0}), 4.0);
  EXPECT_EQ(median({9.0, 1.0, 4.0}), 4.0);
  EXPECT_EQ(median({9.0, 1.0, 4.0, 2.0}), 3.0);
}

}  // namespace
}  // namespace sdp
