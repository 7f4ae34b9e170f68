// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <csignal>
#include <optional>

#include "train/stop_request.hpp"
#include "train/stop_rule.hpp"

namespace sdp {
namespace {

TEST(StopRequest, IsSharedByAllThatLive) {
  std::optional<StopRequest> outer;
  outer.emplace();
  EXPECT_FALSE(outer->requested());
  std::raise(SIGUSR2);
  {
    const StopRequest inner;
    EXPECT_TRUE(inner.requested()) << "asked before it was made";
  }
  std::raise(SIGUSR1);  // would end the process, had the inner one taken the handler with it
  EXPECT_TRUE(outer->requested());
  outer.reset();
  const StopRequest next;
  EXPECT_FALSE(next.requested());
}

TEST(StopRequestDeathTest, LeavesSignalsAsTheyWere) {
  EXPECT_EXIT(
      {
        { const StopRequest stop; }
        std::raise(SIGUSR1);
      },
      ::testing::KilledBySignal(SIGUSR1), "");
}

TEST(StopRule, WithoutALimitNothingEnds) {
  StopRule rule(0);
  rule.update_took(1e9);
  EXPECT_FALSE(rule.ends_run(1e12));
  EXPECT_FALSE(rule.ends_evaluation(1e12));
}

TEST(StopRule, LeavesRoomForTheLongestUpdateAndTheLongestSave) {
  StopRule rule(100);
  EXPECT_FALSE(rule.ends_run(99.9));
  EXPECT_TRUE(rule.ends_run(100));
  rule.update_took(10);
  rule.update_took(4);
  EXPECT_FALSE(rule.ends_run(89.9));
  EXPECT_TRUE(rule.ends_run(90));
  EXPECT_FALSE(rule.ends_evaluation(99.9));
  rule.save_took(20);
  rule.save_took(5);
  EXPECT_FALSE(rule.ends_run(69.9));
  EXPECT_TRUE(rule.ends_run(70));
  EXPECT_FALSE(rule.ends_evaluation(79.9));
  EXPECT_TRUE(rule.ends_evaluation(80));
}

}  // namespace
}  // namespace sdp
