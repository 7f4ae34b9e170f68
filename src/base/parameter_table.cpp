// SPDX-License-Identifier: Apache-2.0
#include "base/parameter_table.hpp"

#include <stdexcept>

namespace sdp {

namespace {
std::vector<std::vector<Span>> everything(std::vector<TensorSpec> const& tensors) {
  std::vector<std::vector<Span>> held(tensors.size());
  for (std::size_t t = 0; t < tensors.size(); ++t)
    held[t].push_back({static_cast<int>(t), 0, tensors[t].rows, 0, k_shared});
  return held;
}
}  // namespace

ParameterTable::ParameterTable(std::vector<TensorSpec> tensors)
    : ParameterTable(tensors, everything(tensors)) {}

ParameterTable::ParameterTable(std::vector<TensorSpec> tensors,
                               std::vector<std::vector<Span>> const& held)
    : m_tensors(std::move(tensors)) {
  if (held.size() != m_tensors.size())
    throw std::invalid_argument("ParameterTable: one list of spans per tensor is needed");
  for (std::size_t t = 0; t < m_tensors.size(); ++t) {
    TensorSpec const& tensor = m_tensors[t];
    index_t product = 1;
    for (index_t extent : tensor.shape) product *= extent;
    if (product != tensor.size())
      throw std::invalid_argument("ParameterTable: " + tensor.name +
                                  " has rows * cols = " + std::to_string(tensor.size()) +
                                  " but its shape holds " + std::to_string(product) + " elements");
    m_offsets.push_back(m_size);
    index_t rows = 0;
    index_t next_row = 0;
    for (Span span : held[t]) {
      if (span.row_begin < next_row || span.rows < 0 || span.row_begin + span.rows > tensor.rows)
        throw std::invalid_argument("ParameterTable: spans of " + tensor.name +
                                    " are not ascending rows of the tensor");
      next_row = span.row_begin + span.rows;
      span.tensor = static_cast<int>(t);
      span.offset = m_size + rows * tensor.cols;
      rows += span.rows;
      if (span.rows > 0) m_spans.push_back(span);
    }
    m_held_rows.push_back(rows);
    m_size += rows * tensor.cols;
    m_logical_size += tensor.size();
  }
}

int ParameterTable::find(std::string const& name) const {
  for (std::size_t t = 0; t < m_tensors.size(); ++t)
    if (m_tensors[t].name == name) return static_cast<int>(t);
  return -1;
}

}  // namespace sdp
