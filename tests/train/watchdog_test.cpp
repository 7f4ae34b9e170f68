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
