// SPDX-License-Identifier: Apache-2.0
#include "kernels/random/philox.hpp"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace sdp::kernels {
namespace {

std::vector<std::uint32_t> words(PhiloxBlock const& block) {
  return {block[0], block[1], block[2], block[3]};
}
using Words = std::vector<std::uint32_t>;

TEST(Philox, KnownAnswers) {
  // The vectors of Random123's kat_vectors for philox4x32 with 10 rounds.
  EXPECT_EQ(words(philox4x32({{0, 0, 0, 0}}, {{0, 0}})),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(words(philox4x32({{~0u, ~0u, ~0u, ~0u}}, {{~0u, ~0u}})),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(words(philox4x32({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
                             {{0xa4093822, 0x299f31d0}})),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, StreamBitsPlaceSeedStreamAndIndex) {
  EXPECT_EQ(words(stream_bits(0x299f31d0a4093822u, 0x0370734413198a2eu, 0x85a308d3243f6a88u)),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(StreamKey, IsFixedAndSpreadsNames) {
  static_assert(stream_key("model.norm.weight") != stream_key("model.norm.bias"));
  std::set<std::uint64_t> keys{stream_key("")};
  for (int i = 0; i < 1000; ++i)
    keys.insert(stream_key("model.layers." + std::to_string(i) + ".mlp.up_proj.weight"));
  EXPECT_EQ(keys.size(), 1001u);
  // Written down so that initial weights never change by accident.
  EXPECT_EQ(stream_key("lm_head.weight"), 3035786156595988557u);
}

}  // namespace
}  // namespace sdp::kernels
