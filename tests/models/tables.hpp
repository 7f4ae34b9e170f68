// SPDX-License-Identifier: Apache-2.0
#pragma once

// Tables of chosen units, and what of a complete buffer belongs to them.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "base/parameter_table.hpp"
#include "base/unit.hpp"
#include "tests/support/kernel_views.hpp"

namespace sdp::test {

/// Table of everything but the units that `keep` does not want.
inline ParameterTable table_of(std::vector<TensorSpec> const& tensors, UnitSet const& set,
                               std::function<bool(Unit const&)> const& keep) {
  std::vector<std::vector<int>> owner(tensors.size());
  for (std::size_t t = 0; t < tensors.size(); ++t) owner[t].assign(tensors[t].rows, k_shared);
  for (std::size_t u = 0; u < set.units.size(); ++u)
    for (RowRange const& range : set.units[u].rows)
      for (index_t row = range.begin; row < range.begin + range.count; ++row)
        owner[range.tensor][row] = static_cast<int>(u);
  std::vector<std::vector<Span>> held(tensors.size());
  for (std::size_t t = 0; t < tensors.size(); ++t)
    for (index_t row = 0; row < tensors[t].rows; ++row) {
      const int unit = owner[t][row];
      if (unit != k_shared && !keep(set.units[unit])) continue;
      auto& spans = held[t];
      if (!spans.empty() && spans.back().unit == unit &&
          spans.back().row_begin + spans.back().rows == row)
        ++spans.back().rows;
      else
        spans.push_back({static_cast<int>(t), row, 1, 0, unit});
    }
  return ParameterTable(tensors, held);
}

/// The elements of a complete buffer that `part` holds, in its order.
inline Values restricted(Values const& whole, ParameterTable const& part) {
  const ParameterTable table(part.tensors());
  Values values;
  for (Span const& span : part.spans()) {
    const index_t cols = part.tensors()[span.tensor].cols;
    const auto from = whole.begin() + table.offset(span.tensor) + span.row_begin * cols;
    values.insert(values.end(), from, from + span.rows * cols);
  }
  return values;
}

/// A complete buffer in which the rows that `part` lacks are zero.
inline Values with_zeros(Values const& whole, ParameterTable const& part) {
  const ParameterTable table(part.tensors());
  Values values(whole.size(), 0.0);
  for (Span const& span : part.spans()) {
    const index_t begin =
        table.offset(span.tensor) + span.row_begin * part.tensors()[span.tensor].cols;
    for (index_t i = begin; i < begin + span.rows * part.tensors()[span.tensor].cols; ++i)
      values[i] = whole[i];
  }
  return values;
}

/// Largest difference relative to the largest element, tensor by tensor.
inline void expect_same_tensors(ParameterTable const& table, Values const& actual,
                                Values const& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t t = 0; t < table.tensors().size(); ++t) {
    const index_t begin = table.offset(static_cast<int>(t));
    double difference = 0, size = 0;
    for (index_t i = begin; i < begin + table.held_size(static_cast<int>(t)); ++i) {
      ASSERT_FALSE(std::isnan(actual[i])) << table.tensors()[t].name;
      difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
      size += expected[i] * expected[i];
    }
    EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(size)) << table.tensors()[t].name;
  }
}

}  // namespace sdp::test
