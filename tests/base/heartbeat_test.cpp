// SPDX-License-Identifier: Apache-2.0
#include "base/heartbeat.hpp"

#include <gtest/gtest.h>

namespace sdp {
namespace {

TEST(Heartbeat, SaysWhatItWaitsForUntilTheNextSignOfLife) {
  heartbeat::beat();
  EXPECT_EQ(heartbeat::waiting(), "");
  heartbeat::set_waiting("waits for rank 3");
  EXPECT_EQ(heartbeat::waiting(), "waits for rank 3");
  heartbeat::set_waiting("waits for rank 4");
  EXPECT_EQ(heartbeat::waiting(), "waits for rank 4");
  heartbeat::beat();
  EXPECT_EQ(heartbeat::waiting(), "");
  heartbeat::set_waiting("waits for rank 5");
  heartbeat::phase("update");
  EXPECT_EQ(heartbeat::waiting(), "");
}

TEST(Heartbeat, NamesAnOperationOfAllRanksWhileItLasts) {
  {
    const heartbeat::Collective inside("MPI_Barrier");
    EXPECT_EQ(heartbeat::waiting(), "waits for all ranks in MPI_Barrier");
  }
  EXPECT_EQ(heartbeat::waiting(), "");
}

TEST(Heartbeat, AsksTheGuardBetweenBeginAndEnd) {
  std::string found;
  int abandoned = 0;
  {
    heartbeat::Guard guard([&] { return found; }, [&] { ++abandoned; });
    found = "a link is down";
    EXPECT_EQ(heartbeat::fault(), "");
    guard.begin();
    EXPECT_EQ(heartbeat::fault(), "a link is down");
    heartbeat::abandon();
    guard.end();
    heartbeat::abandon();
    EXPECT_EQ(heartbeat::fault(), "");
    guard.begin();
  }
  EXPECT_EQ(heartbeat::fault(), "");
  EXPECT_EQ(abandoned, 1);
}

TEST(Heartbeat, AsksEveryGuardThatIsLeft) {
  std::string of_first, of_second;
  int abandoned = 0;
  heartbeat::Guard first([&] { return of_first; }, [&] { ++abandoned; });
  first.begin();
  {
    heartbeat::Guard second([&] { return of_second; }, [&] { ++abandoned; });
    second.begin();
    of_second = "a link is down";
    EXPECT_EQ(heartbeat::fault(), "a link is down");
    heartbeat::abandon();
    EXPECT_EQ(abandoned, 2);
  }
  EXPECT_EQ(heartbeat::fault(), "");
  of_first = "a rank is gone";
  EXPECT_EQ(heartbeat::fault(), "a rank is gone");
}

}  // namespace
}  // namespace sdp
