// SPDX-License-Identifier: Apache-2.0
#include "comm/buckets.hpp"

#include <gtest/gtest.h>

#include "layouts.hpp"

namespace sdp {
namespace {

using test::tensor;

TEST(Buckets, CoverTheModelInOrder) {
  const ParameterTable table = test::awkward_table();
  for (index_t bytes : {1, 4, 100, 1000, 4096, 8000, 20000, 1 << 30}) {
    const auto buckets = make_buckets(table, bytes, 4);
    index_t next = 0;
    for (IndexRange const& bucket : buckets) {
      EXPECT_EQ(bucket.begin, next);
      EXPECT_GT(bucket.end, bucket.begin);
      next = bucket.end;
    }
    EXPECT_EQ(next, table.logical_size()) << bytes;
  }
  EXPECT_EQ(make_buckets(table, 1 << 30, 4).size(), 1u);
}

TEST(Buckets, CutAtTensorsAndRows) {
  const ParameterTable table({tensor("a", 4, 10), tensor("b", 2, 10), tensor("c", 10, 10),
                              tensor("d", 1, 50), tensor("e", 1, 5), tensor("f", 0, 3)});
  // 40 elements: a fills one; b alone, since c does not fit beside it; c in three parts by rows,
  // the last of which (40) has no room for d; the single row d is larger than a bucket.
  const std::vector<IndexRange> expected{{0, 40},    {40, 60},   {60, 90},  {90, 120},
                                         {120, 160}, {160, 210}, {210, 215}};
  EXPECT_EQ(make_buckets(table, 160, 4), expected);
  EXPECT_EQ(make_buckets(table, 320, 8), expected);
}

}  // namespace
}  // namespace sdp
