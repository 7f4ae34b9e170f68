// SPDX-License-Identifier: Apache-2.0
#include "kernels/nn/attention_parts.hpp"

#include <gtest/gtest.h>

namespace sdp::kernels::Details {
namespace {

constexpr std::int64_t k_mebi = 1 << 20;

/// 2 H T^2 bytes a sequence.
std::int64_t quadratic(AttentionShape const& shape) {
  return 2 * shape.batch * shape.heads * shape.positions * shape.positions;
}

AttentionPart part_within(AttentionShape const& shape, std::int64_t limit) {
  return attention_part(shape, quadratic(shape), limit);
}

TEST(AttentionParts, ABatchThatFitsStaysWhole) {
  const AttentionShape shape{8, 2048, 12, 12, 64};  // 96 MiB a sequence
  EXPECT_EQ(part_within(shape, 768 * k_mebi), whole_batch(shape));
}

TEST(AttentionParts, TakesTheLargestDivisorOfTheBatch) {
  const AttentionShape shape{12, 2048, 12, 12, 64};
  EXPECT_EQ(part_within(shape, 640 * k_mebi), (AttentionPart{6, 12}));
  EXPECT_EQ(part_within(shape, 575 * k_mebi), (AttentionPart{4, 12}));
  EXPECT_EQ(part_within(shape, 96 * k_mebi), (AttentionPart{1, 12}));
}

TEST(AttentionParts, DividesTheHeadsOfALongSequence) {
  const AttentionShape shape{4, 16384, 32, 8, 128};  // 512 MiB a head, 2 GiB a group
  EXPECT_EQ(part_within(shape, 8192 * k_mebi), (AttentionPart{1, 4}));
  EXPECT_EQ(part_within(shape, 640 * k_mebi), (AttentionPart{1, 1})) << "the smallest there is";
}

TEST(AttentionParts, StatisticsOfAPartStartOnSixteenBytes) {
  const AttentionShape odd{4, 33, 3, 3, 64};
  EXPECT_EQ(part_within(odd, 1), whole_batch(odd));
  const AttentionShape even{4, 34, 3, 3, 64};
  EXPECT_EQ(part_within(even, 1), (AttentionPart{2, 3}));
  const AttentionShape pairs{4, 34, 6, 3, 64};
  EXPECT_EQ(part_within(pairs, 1), (AttentionPart{1, 1}));
}

}  // namespace
}  // namespace sdp::kernels::Details
