// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/bf16.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace sdp::kernels {
namespace {

std::uint16_t bits(double value) {
  return bf16(value).bits;
}

bf16 from_bits(std::uint16_t pattern) {
  bf16 value;
  value.bits = pattern;
  return value;
}

TEST(Bf16, EveryPatternSurvivesTheWayToFloatAndDoubleAndBack) {
  for (std::uint32_t pattern = 0; pattern < 0x10000u; ++pattern) {
    const bf16 value = from_bits(static_cast<std::uint16_t>(pattern));
    const float wide = value;
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(static_cast<float>(bf16(wide))));
      EXPECT_TRUE(std::isnan(static_cast<float>(bf16(static_cast<double>(wide)))));
      continue;
    }
    ASSERT_EQ(bf16(wide).bits, pattern);
    ASSERT_EQ(bf16(static_cast<double>(wide)).bits, pattern);
  }
}

TEST(Bf16, RoundsToNearestAndTiesToEven) {
  EXPECT_EQ(bf16(1.0f).bits, 0x3f80);
  EXPECT_EQ(bf16(1.00390625f).bits, 0x3f80);    // 1 + 2^-8: a tie, down to even
  EXPECT_EQ(bf16(1.01171875f).bits, 0x3f82);    // 1 + 3 * 2^-8: a tie, up to even
  EXPECT_EQ(bf16(0x1.010002p0f).bits, 0x3f81);  // just above the tie
  EXPECT_EQ(bf16(0x1.00fffep0f).bits, 0x3f80);  // just below it
  EXPECT_EQ(bf16(-0x1.010002p0f).bits, 0xbf81);
  EXPECT_EQ(bf16(0x1.ffp0f).bits, 0x4000);  // carries into the exponent
  EXPECT_EQ(bf16(std::numeric_limits<float>::max()).bits, 0x7f80);
  EXPECT_EQ(bf16(std::numeric_limits<float>::infinity()).bits, 0x7f80);
  EXPECT_EQ(bf16(-0.0f).bits, 0x8000);
  EXPECT_EQ(bf16(std::numeric_limits<float>::denorm_min()).bits, 0x0000);
}

TEST(Bf16, KeepsEveryNaNPayloadANaN) {
  for (const std::uint32_t wide :
       {0x7f800001u, 0x7fc00000u, 0xff800001u, 0x7fffffffu, 0xffffffffu}) {
    float value;
    std::memcpy(&value, &wide, sizeof(value));
    EXPECT_TRUE(std::isnan(static_cast<float>(from_bits(bf16::from_float(value)))))
        << std::hex << wide;
  }
}

TEST(Bf16, RoundsADoubleOnce) {
  // Through the nearest float these would first become the tie, then go to even.
  EXPECT_EQ(bits(0x1.0100000000001p0), 0x3f81);
  EXPECT_EQ(bits(-0x1.0100000000001p0), 0xbf81);
  EXPECT_EQ(bits(0x1.02ffffffffffp0), 0x3f81);
  EXPECT_EQ(bits(-0x1.02ffffffffffp0), 0xbf81);
  EXPECT_EQ(bits(0x1.03p0), 0x3f82);
  EXPECT_EQ(bits(1e300), 0x7f80);
  EXPECT_EQ(bits(-1e300), 0xff80);
  EXPECT_EQ(bits(1e-300), 0x0000);
  EXPECT_EQ(bits(-1e-300), 0x8000);
  EXPECT_EQ(bits(HUGE_VAL), 0x7f80);
  EXPECT_TRUE(std::isnan(static_cast<float>(bf16(std::nan("")))));
}

}  // namespace
}  // namespace sdp::kernels
