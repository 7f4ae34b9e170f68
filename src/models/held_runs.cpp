// SPDX-License-Identifier: Apache-2.0
#include "models/held_runs.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace sdp {

namespace {

std::vector<std::vector<Span>> by_tensor(ParameterTable const& table) {
  std::vector<std::vector<Span>> spans(table.tensors().size());
  for (Span const& span : table.spans()) spans[span.tensor].push_back(span);
  return spans;
}

/// Adds the held rows of one tensor, whose stored rows start at `first`.
void add_runs(TensorSpec const& tensor, std::vector<Span> const& weights,
              std::vector<Span> const& gradients, index_t first,
              std::vector<kernels::ColumnRun>& runs) {
  auto weight = weights.begin();
  for (Span const& span : gradients) {
    for (index_t row = span.row_begin; row < span.row_begin + span.rows;) {
      while (weight != weights.end() && weight->row_begin + weight->rows <= row) {
        first += weight->rows;
        ++weight;
      }
      if (weight == weights.end() || weight->row_begin > row)
        throw std::invalid_argument("model: row " + std::to_string(row) + " of " + tensor.name +
                                    " has a gradient but no weight");
      const index_t end = std::min(span.row_begin + span.rows, weight->row_begin + weight->rows);
      const index_t from = first + row - weight->row_begin;
      if (!runs.empty() && runs.back().from + runs.back().count == from)
        runs.back().count += end - row;
      else
        runs.push_back({from, runs.empty() ? 0 : runs.back().to + runs.back().count, end - row});
      row = end;
    }
  }
}

}  // namespace

HeldRuns::HeldRuns(ParameterTable const& weights, ParameterTable const& gradients)
    : m_weights(weights), m_stored(by_tensor(weights)), m_held(by_tensor(gradients)) {}

std::vector<kernels::ColumnRun> HeldRuns::of(std::initializer_list<int> tensors) const {
  std::vector<kernels::ColumnRun> runs;
  index_t rows = 0;
  for (int tensor : tensors) {
    add_runs(m_weights.tensors()[tensor], m_stored[tensor], m_held[tensor], rows, runs);
    rows += m_weights.held_rows(tensor);
  }
  if (runs.size() == 1 && runs[0].count == rows) runs.clear();
  return runs;
}

}  // namespace sdp
