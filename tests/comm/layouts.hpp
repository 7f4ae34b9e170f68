// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "comm/owners.hpp"

namespace sdp::test {

inline TensorSpec tensor(std::string const& name, index_t rows, index_t cols) {
  TensorSpec spec;
  spec.name = name;
  spec.shape = rows == 1 ? std::vector<index_t>{cols} : std::vector<index_t>{rows, cols};
  spec.rows = rows;
  spec.cols = cols;
  return spec;
}

inline std::string numbered(std::string name, int number) {
  name += std::to_string(number);
  return name;
}

/// Odd sizes, single rows, fewer rows than workers, a tensor of one element.
inline std::vector<TensorSpec> awkward_tensors() {
  return {tensor("head", 37, 24),      tensor("norm", 1, 24),  tensor("down", 3, 1001),
          tensor("gate", 16, 129),     tensor("scalar", 1, 1), tensor("bias", 1, 5000),
          tensor("embedding", 211, 24)};
}

inline ParameterTable awkward_table() {
  return ParameterTable(awkward_tensors());
}

/// The spans of a worker that holds the rows for which holds(tensor, row) is true.
template <class Holds>
ParameterTable table_holding(std::vector<TensorSpec> const& tensors, Holds&& holds) {
  std::vector<std::vector<Span>> held(tensors.size());
  for (std::size_t t = 0; t < tensors.size(); ++t)
    for (index_t row = 0; row < tensors[t].rows; ++row) {
      if (!holds(static_cast<int>(t), row)) continue;
      auto& spans = held[t];
      if (!spans.empty() && spans.back().row_begin + spans.back().rows == row)
        ++spans.back().rows;
      else
        spans.push_back({static_cast<int>(t), row, 1, 0, k_shared});
    }
  return ParameterTable(tensors, held);
}

/// Forward masking in small: "gate" and "down" are cut into groups of rows, each held by `keep` of
/// `tables` consecutive subnetworks; the rest is shared. Every worker w has subnetwork w mod
/// tables.
inline ExchangeLayout masked_layout(int workers, int tables, int keep, bool full_weights = false) {
  const auto tensors = awkward_tensors();
  ExchangeLayout layout;
  for (int table = 0; table < tables; ++table) {
    layout.gradients.push_back(table_holding(tensors, [&](int t, index_t row) {
      const std::string& name = tensors[static_cast<std::size_t>(t)].name;
      if (name != "gate" && name != "down") return true;
      const auto group = static_cast<int>(name == "gate" ? row / 3 : row + 1);
      return (table - group % tables + tables) % tables < keep;
    }));
    if (full_weights) layout.weights.push_back(ParameterTable(tensors));
  }
  for (int worker = 0; worker < workers; ++worker)
    layout.table_of_worker.push_back(worker % tables);
  return layout;
}

/// The same with groups of random sizes, each held by `keep` random subnetworks.
inline ExchangeLayout random_masks(int workers, int tables, int keep, unsigned seed,
                                   bool full_weights = false) {
  const auto tensors = awkward_tensors();
  std::mt19937 generator(seed);
  std::vector<int> order;
  for (int table = 0; table < tables; ++table) order.push_back(table);
  std::vector<std::vector<std::vector<int>>> holders(tensors.size());
  for (std::size_t t = 0; t < tensors.size(); ++t)
    for (index_t row = 0; row < tensors[t].rows; ++row) {
      if (generator() % 2 == 0) std::shuffle(order.begin(), order.end(), generator);
      holders[t].emplace_back(order.begin(), order.begin() + keep);
    }
  ExchangeLayout layout;
  for (int table = 0; table < tables; ++table) {
    layout.gradients.push_back(table_holding(tensors, [&](int t, index_t row) {
      const std::string& name = tensors[static_cast<std::size_t>(t)].name;
      auto const& set = holders[static_cast<std::size_t>(t)][static_cast<std::size_t>(row)];
      return (name != "gate" && name != "down") ||
             std::find(set.begin(), set.end(), table) != set.end();
    }));
    if (full_weights) layout.weights.push_back(ParameterTable(tensors));
  }
  for (int worker = 0; worker < workers; ++worker)
    layout.table_of_worker.push_back(worker % tables);
  return layout;
}

/// Every row is held by a random set of workers, of any size from 1.
inline ExchangeLayout random_layout(int workers, unsigned seed, bool full_weights = false) {
  const auto tensors = awkward_tensors();
  std::mt19937 generator(seed);
  std::vector<std::vector<unsigned>> sets;
  for (TensorSpec const& spec : tensors) {
    auto& rows = sets.emplace_back();
    unsigned set = 0;
    for (index_t row = 0; row < spec.rows; ++row) {
      if (row == 0 || generator() % 4 == 0) set = 1 + generator() % ((1u << workers) - 1u);
      rows.push_back(set);
    }
  }
  ExchangeLayout layout;
  for (int worker = 0; worker < workers; ++worker) {
    layout.gradients.push_back(table_holding(tensors, [&](int t, index_t row) {
      return (sets[static_cast<std::size_t>(t)][static_cast<std::size_t>(row)] >> worker & 1u) != 0;
    }));
    if (full_weights) layout.weights.push_back(ParameterTable(tensors));
    layout.table_of_worker.push_back(worker);
  }
  return layout;
}

/// Logical position of every flat element of a table.
inline std::vector<index_t> logical_positions(ParameterTable const& table) {
  std::vector<index_t> begins{0};
  for (TensorSpec const& spec : table.tensors()) begins.push_back(begins.back() + spec.size());
  std::vector<index_t> positions(static_cast<std::size_t>(table.size()));
  for (Span const& span : table.spans()) {
    const auto t = static_cast<std::size_t>(span.tensor);
    const index_t cols = table.tensors()[t].cols;
    for (index_t i = 0; i < span.rows * cols; ++i)
      positions[static_cast<std::size_t>(span.offset + i)] = begins[t] + span.row_begin * cols + i;
  }
  return positions;
}

}  // namespace sdp::test
