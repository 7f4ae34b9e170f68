// SPDX-License-Identifier: Apache-2.0
#include "base/device.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "base/types.hpp"

namespace sdp {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Device, RanksOfANodeTakeItsDevicesInTurn) {
  EXPECT_THAT(device_arguments({}, 0, 4), ElementsAre("--kokkos-device-id=0"));
  EXPECT_THAT(device_arguments({"sdp", "--kokkos-print-configuration"}, 3, 4),
              ElementsAre("--kokkos-device-id=3"));
  EXPECT_THAT(device_arguments({}, 5, 4), ElementsAre("--kokkos-device-id=1"));
}

TEST(Device, LeavesTheChoiceToWhoeverMadeIt) {
  EXPECT_THAT(device_arguments({}, 1, 0), IsEmpty());
  EXPECT_THAT(device_arguments({"--kokkos-device-id=2"}, 1, 4), IsEmpty());
  EXPECT_THAT(device_arguments({"--kokkos-map-device-id-by=random"}, 1, 4), IsEmpty());
  ASSERT_EQ(setenv("KOKKOS_DEVICE_ID", "2", 1), 0);
  EXPECT_THAT(device_arguments({}, 1, 4), IsEmpty());
  unsetenv("KOKKOS_DEVICE_ID");
}

TEST(Device, HostBuildsHaveNoneAndLackNone) {
  if (!Kokkos::SpaceAccessibility<HostSpace, MemSpace>::accessible)
    GTEST_SKIP() << "a build for devices";
  EXPECT_EQ(visible_devices(), 0);
  EXPECT_FALSE(lacks_device());
}

}  // namespace
}  // namespace sdp
