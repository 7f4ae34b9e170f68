// SPDX-License-Identifier: Apache-2.0
#include "subnet/subnetwork.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <stdexcept>

#include "base/error.hpp"
#include "subnet/balance.hpp"

namespace sdp {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TensorSpec tensor(std::string const& name, index_t rows, index_t cols) {
  TensorSpec spec;
  spec.name = name;
  spec.shape = {rows, cols};
  spec.rows = rows;
  spec.cols = cols;
  return spec;
}

/// "a" is cut into two units and shared rows, one unit in two pieces; "b" is shared.
struct Model {
  std::vector<TensorSpec> tensors{tensor("a", 10, 3), tensor("b", 4, 2), tensor("c", 5, 1)};
  UnitSet units;
  Mask mask;

  Model() {
    units.classes = {"x"};
    units.units = {{"first", 0, 0, {{0, 0, 2}, {0, 2, 1}, {0, 8, 2}, {2, 0, 5}}, 20, 30},
                   {"second", 0, 1, {{0, 3, 4}}, 12, 10}};
    mask.subnetworks = 3;
    mask.holders_per_unit = 1;
    mask.holders = {0b001, 0b010};
  }
};

std::vector<std::vector<index_t>> spans_of(ParameterTable const& table) {
  std::vector<std::vector<index_t>> list;
  for (Span const& span : table.spans())
    list.push_back({span.tensor, span.row_begin, span.rows, span.offset, span.unit});
  return list;
}

using Row = std::vector<index_t>;

TEST(SubnetworkTable, SpansAreMaximalRunsOfOneUnit) {
  const Model m;
  EXPECT_THAT(spans_of(full_table(m.tensors, m.units)),
              ElementsAre(Row{0, 0, 3, 0, 0}, Row{0, 3, 4, 9, 1}, Row{0, 7, 1, 21, k_shared},
                          Row{0, 8, 2, 24, 0}, Row{1, 0, 4, 30, k_shared}, Row{2, 0, 5, 38, 0}));
  EXPECT_THAT(spans_of(subnetwork_table(m.tensors, m.units, m.mask, 0)),
              ElementsAre(Row{0, 0, 3, 0, 0}, Row{0, 7, 1, 9, k_shared}, Row{0, 8, 2, 12, 0},
                          Row{1, 0, 4, 18, k_shared}, Row{2, 0, 5, 26, 0}));
  EXPECT_THAT(
      spans_of(subnetwork_table(m.tensors, m.units, m.mask, 1)),
      ElementsAre(Row{0, 3, 4, 0, 1}, Row{0, 7, 1, 12, k_shared}, Row{1, 0, 4, 15, k_shared}));
  EXPECT_THAT(spans_of(subnetwork_table(m.tensors, m.units, m.mask, 2)),
              ElementsAre(Row{0, 7, 1, 0, k_shared}, Row{1, 0, 4, 3, k_shared}));
  EXPECT_EQ(full_table(m.tensors, m.units).size(), 43);
}

TEST(SubnetworkTable, NoUnitsIsTheDenseTable) {
  const Model m;
  const ParameterTable dense(m.tensors);
  EXPECT_EQ(spans_of(full_table(m.tensors, UnitSet{})), spans_of(dense));
  EXPECT_EQ(spans_of(subnetwork_table(m.tensors, UnitSet{}, full_mask({}, 4), 3)), spans_of(dense));
}

TEST(SubnetworkTable, RefusesRowsOfTwoUnitsOrOfNone) {
  Model m;
  m.units.units[1].rows[0].begin = 2;
  try {
    full_table(m.tensors, m.units);
    FAIL() << "row 2 belongs to both";
  } catch (std::invalid_argument const& error) {
    EXPECT_THAT(error.what(), HasSubstr("row 2 of a belongs to two units"));
  }
  m = Model();
  m.units.units[1].rows[0].count = 100;
  EXPECT_THROW(full_table(m.tensors, m.units), std::invalid_argument);
  m.units.units[1].rows[0] = {9, 0, 1};
  EXPECT_THROW(full_table(m.tensors, m.units), std::invalid_argument);
}

TEST(Placement, BothWays) {
  EXPECT_THAT(place_ranks(7, Placement::round_robin, 2, 3), ElementsAre(0, 1, 2, 0, 1, 2, 0));
  EXPECT_THAT(place_ranks(8, Placement::node_aligned, 2, 3), ElementsAre(0, 0, 1, 1, 2, 2, 0, 0));
  EXPECT_THAT(place_ranks(5, Placement::node_aligned, 2, 3), ElementsAre(0, 0, 1, 1, 2));
  EXPECT_EQ(subnetwork_of(13, Placement::node_aligned, 4, 3), 0);
  EXPECT_EQ(subnetwork_of(13, Placement::round_robin, 4, 3), 1);
}

TEST(Placement, EverySubnetworkNeedsARank) {
  try {
    place_ranks(8, Placement::node_aligned, 4, 3);
    FAIL() << "two nodes cannot have three subnetworks";
  } catch (ConfigError const& error) {
    EXPECT_THAT(error.what(), HasSubstr("8 ranks with 4 a node make 2 nodes"));
  }
  EXPECT_THROW(place_ranks(2, Placement::round_robin, 1, 3), ConfigError);
}

TEST(Balance, OfAnUnevenMask) {
  const Model m;
  EXPECT_THAT(held_parameters(m.tensors, m.units, m.mask), ElementsAre(31.0, 23.0, 11.0));
  EXPECT_THAT(held_cost(m.units, m.mask, 5.0), ElementsAre(35.0, 15.0, 5.0));
  EXPECT_EQ(imbalance({0.0, 0.0}), 1.0);
  EXPECT_EQ(imbalance({3.0, 1.0}), 1.5);
  const Balance balance = measure_balance(m.tensors, m.units, m.mask, 5.0, {0, 1, 2, 0});
  EXPECT_DOUBLE_EQ(balance.flops, 35.0 / (55.0 / 3.0));
  EXPECT_DOUBLE_EQ(balance.parameters, 31.0 / (65.0 / 3.0));
  EXPECT_DOUBLE_EQ(balance.true_fraction.min, 11.0 / 43.0);
  EXPECT_DOUBLE_EQ(balance.true_fraction.max, 31.0 / 43.0);
  EXPECT_DOUBLE_EQ(balance.true_fraction.mean, 96.0 / 4.0 / 43.0);
}

}  // namespace
}  // namespace sdp
