// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <vector>

#include "base/parameter_table.hpp"
#include "kernels/nn/pack_columns.hpp"

namespace sdp {

/// Which of the rows that a worker stores get a gradient there.
class HeldRuns {
 public:
  HeldRuns(ParameterTable const& weights, ParameterTable const& gradients);

  /// Rows with a gradient of these tensors side by side: `from` counts stored rows, `to` gradient
  /// rows, both through all tensors. Neighbouring spans make one run; empty where all rows have
  /// one, or none. Throws std::invalid_argument when a gradient row is not among the weights.
  std::vector<kernels::ColumnRun> of(std::initializer_list<int> tensors) const;

 private:
  using Lists = std::vector<std::vector<Span>>;  // by tensor

  ParameterTable const& m_weights;
  Lists m_stored;
  Lists m_held;
};

}  // namespace sdp
