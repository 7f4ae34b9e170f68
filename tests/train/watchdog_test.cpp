// SPDX-License-Identifier: Apache-2.0
#include "train/watchdog.hpp"

#include <gtest/gtest.h>

#include <chrono>

#include "base/heartbeat.hpp"

namespace sdp {
namespace {

void sleep_ms(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

TEST(WatchdogDeathTest, EndsASilentProcessAndSaysWhere) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        Watchdog watchdog(3, 0.3);
        watchdog.set_step(17);
        heartbeat::phase("exchange");
        sleep_ms(5000);
      },
      ::testing::ExitedWithCode(5), "rank 3: no progress for .* step 17, phase \"exchange\"");
}

TEST(WatchdogDeathTest, EndsAProcessWhoseTransportFailed) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        heartbeat::Guard guard([] { return std::string("NCCL failed: remote error"); },
                               [] { sleep_ms(60000); });
        guard.begin();
        const Watchdog watchdog(2, 1.0);
        for (int i = 0; i < 200; ++i) {
          heartbeat::beat();
          sleep_ms(50);
        }
      },
      ::testing::ExitedWithCode(5), "rank 2: NCCL failed: remote error in step 0");
}

TEST(Watchdog, LeavesAProcessAloneThatGivesSignsOfLifeOrIsPaused) {
  Watchdog watchdog(0, 0.4);
  for (int i = 0; i < 12; ++i) {
    heartbeat::beat();
    sleep_ms(50);
  }
  const Watchdog::Pause pause(watchdog);
  sleep_ms(800);
}

}  // namespace
}  // namespace sdp
