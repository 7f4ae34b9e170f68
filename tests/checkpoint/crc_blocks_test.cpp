// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/crc_blocks.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "checkpoint/checkpoint_layout.hpp"
#include "checkpoint/flat_pieces.hpp"

namespace sdp {
namespace {

using checkpoint_layout::k_block_elements;

TEST(CrcBlocks, KnownCheckValue) {
  EXPECT_EQ(crc32_of("123456789", 9), 0xcbf43926u);
}

TEST(CrcBlocks, AnyCutOverAnyOwnersGivesTheChecksumsOfWholeBlocks) {
  const std::vector<index_t> sizes{2 * k_block_elements + 77, 5, 0, k_block_elements};
  std::mt19937 random(7);
  for (std::int64_t width : {4, 8}) {
    CrcBlocks first(sizes, width);
    CrcBlocks second(sizes, width);
    std::vector<std::uint32_t> expected;
    for (std::size_t t = 0; t < sizes.size(); ++t) {
      std::vector<unsigned char> data(static_cast<std::size_t>(sizes[t] * width));
      for (auto& byte : data) byte = static_cast<unsigned char>(random());
      EXPECT_EQ(first.first(static_cast<int>(t)), static_cast<index_t>(expected.size()));
      for (index_t b = 0; b < sizes[t]; b += k_block_elements)
        expected.push_back(
            crc32_of(data.data() + b * width, std::min(k_block_elements, sizes[t] - b) * width));
      for (index_t begin = 0; begin < sizes[t];) {
        const index_t count =
            std::min<index_t>(1 + random() % (k_block_elements / 3), sizes[t] - begin);
        (random() % 2 ? first : second)
            .add(static_cast<int>(t), begin, count, data.data() + begin * width);
        begin += count;
      }
    }
    ASSERT_EQ(first.values().size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i)
      EXPECT_EQ(first.values()[i] ^ second.values()[i], expected[i]) << "block " << i;
  }
}

TensorSpec spec(std::string name, index_t rows, index_t cols) {
  TensorSpec tensor;
  tensor.name = std::move(name);
  tensor.shape = {rows, cols};
  tensor.rows = rows;
  tensor.cols = cols;
  return tensor;
}

bool operator==(FlatPiece const& a, FlatPiece const& b) {
  return a.tensor == b.tensor && a.begin == b.begin && a.count == b.count && a.source == b.source;
}

TEST(FlatPieces, CutsAtSpansAndJoinsNeighbours) {
  const ParameterTable table(
      {spec("a", 8, 2), spec("b", 4, 3)},
      {{{0, 2, 2, 0, 5}, {0, 4, 1, 0, 6}, {0, 7, 1, 0, 7}}, {{0, 0, 4, 0, k_shared}}});
  // Flat: a rows 2..4 at 0, a row 7 at 6, b at 8.
  const auto all = flat_pieces(table);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_TRUE(all[0] == (FlatPiece{0, 4, 6, 0}));
  EXPECT_TRUE(all[1] == (FlatPiece{0, 14, 2, 6}));
  EXPECT_TRUE(all[2] == (FlatPiece{1, 0, 12, 8}));
  const auto some = flat_pieces(table, {{9, 11}, {5, 7}}, true);
  ASSERT_EQ(some.size(), 3u);
  EXPECT_TRUE(some[0] == (FlatPiece{0, 9, 1, 2}));
  EXPECT_TRUE(some[1] == (FlatPiece{0, 14, 1, 3}));
  EXPECT_TRUE(some[2] == (FlatPiece{1, 1, 2, 0}));
  EXPECT_TRUE(flat_pieces(table, {{3, 3}}).empty());
  EXPECT_THROW(flat_pieces(table, {{0, 21}}), std::invalid_argument);
  EXPECT_THROW(flat_pieces(table, {{-1, 2}}), std::invalid_argument);
}

}  // namespace
}  // namespace sdp
