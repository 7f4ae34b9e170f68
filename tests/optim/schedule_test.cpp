// SPDX-License-Identifier: Apache-2.0
#include "optim/schedule.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace sdp {
namespace {

ScheduleConfig make(ScheduleKind kind, std::int64_t warmup, double final_ratio) {
  ScheduleConfig schedule;
  schedule.kind = kind;
  schedule.warmup_steps = warmup;
  schedule.final_ratio = final_ratio;
  schedule.decay_fraction = 0.25;
  return schedule;
}

TEST(Schedule, WarmsUpLinearlyFromTheFirstUpdate) {
  const auto schedule = make(ScheduleKind::cosine, 10, 0.1);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 100, 1), 0.1);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 100, 5), 0.5);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 100, 10), 1.0);
}

TEST(Schedule, CosineIsHalfwayInTheMiddleAndEndsAtTheFinalRatio) {
  const auto schedule = make(ScheduleKind::cosine, 20, 0.2);
  EXPECT_NEAR(schedule_factor(schedule, 120, 70), 0.6, 1e-15);
  EXPECT_NEAR(schedule_factor(schedule, 120, 45), 0.2 + 0.8 * (1 + std::sqrt(0.5)) / 2, 1e-15);
  EXPECT_NEAR(schedule_factor(schedule, 120, 120), 0.2, 1e-15);
  EXPECT_NEAR(schedule_factor(schedule, 120, 500), 0.2, 1e-15);
}

TEST(Schedule, LinearConstantAndWsd) {
  EXPECT_NEAR(schedule_factor(make(ScheduleKind::linear, 0, 0.0), 100, 25), 0.75, 1e-15);
  EXPECT_EQ(schedule_factor(make(ScheduleKind::constant, 0, 0.1), 100, 99), 1.0);
  // 80 updates after warm-up, the last 20 of them decay.
  const auto wsd = make(ScheduleKind::wsd, 20, 0.2);
  EXPECT_EQ(schedule_factor(wsd, 100, 80), 1.0);
  EXPECT_NEAR(schedule_factor(wsd, 100, 85), 1.0 - 0.8 * 0.25, 1e-15);
  EXPECT_NEAR(schedule_factor(wsd, 100, 100), 0.2, 1e-15);
}

TEST(Schedule, WarmUpAsLongAsTheRun) {
  const auto schedule = make(ScheduleKind::cosine, 10, 0.1);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 10, 10), 1.0);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 10, 9), 0.9);
}

}  // namespace
}  // namespace sdp
