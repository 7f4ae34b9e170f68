// SPDX-License-Identifier: Apache-2.0
#include "base/parameter_table.hpp"

#include <gtest/gtest.h>

#include <stdexcept>

namespace sdp {
namespace {

TensorSpec make(std::string name, index_t rows, index_t cols) {
  TensorSpec spec;
  spec.name = std::move(name);
  spec.shape = {rows, cols};
  spec.rows = rows;
  spec.cols = cols;
  return spec;
}

TEST(ParameterTable, DenseTableHoldsEverythingContiguously) {
  ParameterTable table({make("a", 3, 4), make("b", 1, 5)});
  EXPECT_EQ(table.size(), 17);
  EXPECT_EQ(table.logical_size(), 17);
  EXPECT_EQ(table.offset(1), 12);
  ASSERT_EQ(table.spans().size(), 2u);
  EXPECT_EQ(table.spans()[0].unit, k_shared);
  EXPECT_EQ(table.find("b"), 1);
  EXPECT_EQ(table.find("c"), -1);
}

TEST(ParameterTable, HeldRowsArePackedAndKeepTheirLogicalPlace) {
  ParameterTable table({make("a", 8, 2), make("b", 4, 3)},
                       {{{0, 2, 2, 0, 5}, {0, 6, 1, 0, 7}}, {}});
  EXPECT_EQ(table.size(), 6);
  EXPECT_EQ(table.logical_size(), 28);
  ASSERT_EQ(table.spans().size(), 2u);
  EXPECT_EQ(table.spans()[1].offset, 4);
  EXPECT_EQ(table.spans()[1].row_begin, 6);
  EXPECT_EQ(table.spans()[1].unit, 7);
  EXPECT_EQ(table.held_rows(0), 3);
  EXPECT_EQ(table.held_size(1), 0);
}

TEST(ParameterTable, RefusesRowsOutsideTheTensor) {
  EXPECT_THROW(ParameterTable({make("a", 4, 2)}, {{{0, 3, 2, 0, 0}}}), std::invalid_argument);
  EXPECT_THROW(ParameterTable({make("a", 4, 2)}, {{{0, 2, 1, 0, 0}, {0, 1, 1, 0, 1}}}),
               std::invalid_argument);
  TensorSpec wrong = make("a", 4, 2);
  wrong.shape = {3, 2};
  EXPECT_THROW(ParameterTable({wrong}), std::invalid_argument);
}

}  // namespace
}  // namespace sdp
