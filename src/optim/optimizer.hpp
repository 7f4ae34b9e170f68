// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/parameter_table.hpp"
#include "base/types.hpp"
#include "config/config.hpp"
#include "kernels/update/blocks.hpp"
#include "kernels/update/norm.hpp"

namespace sdp {

/// What one update found out, read back after it. Equal on every rank.
struct UpdateResult {
  double grad_norm = 0;  ///< of the averaged gradient, before clipping
  bool skipped = false;  ///< the norm is not finite and nothing was changed
};

/// Clipping, AdamW or SGD on the flat buffers of one worker, n = table.size() elements.
///
/// The norm is summed row by row of the logical tensors in double, then over the rows by a fixed
/// binary tree, so its bits depend on nothing but the gradient. A step whose norm is not finite
/// changes nothing. Everything is decided on the device: update() only launches kernels.
template <class V>
class Optimizer {
 public:
  Optimizer(OptimizerConfig const& config, ParameterTable const& table);

  /// Moments by their names in checkpoints: exp_avg and exp_avg_sq, or momentum. (n) each.
  std::vector<std::pair<std::string, View1<V>>> const& moments() const { return m_moments; }

  /// Number of updates done, which Adam's bias correction counts; skipped ones are not.
  std::int64_t updates() const { return m_updates; }
  void set_updates(std::int64_t updates) { m_updates = updates; }

  /// One update with learning rate lr (the schedule's, before the tensors' own factors); grads (n)
  /// is the averaged gradient and is left alone, weights (n) are updated in place.
  void update(ExecSpace const& exec, double lr, View1<V> const& grads, View1<V> const& weights);

  /// Waits for the last update and says what it did. Call it once per update.
  UpdateResult result(ExecSpace const& exec);

 private:
  OptimizerConfig m_config;
  Kokkos::View<kernels::UpdateBlock*, MemSpace> m_blocks;  // (blocks)
  Kokkos::View<kernels::RowSpan*, MemSpace> m_norm_rows;   // (rows)
  View1<double> m_row_sums;                                // (rows)
  Kokkos::View<double, MemSpace> m_sum;                    // ()
  Kokkos::View<double, MemSpace> m_norm;                   // ()
  Kokkos::View<double, MemSpace> m_factor;                 // () clip factor
  Kokkos::View<int, MemSpace> m_skip;                      // ()
  std::vector<std::pair<std::string, View1<V>>> m_moments;
  std::int64_t m_updates = 0;
};

extern template class Optimizer<float>;
extern template class Optimizer<double>;

}  // namespace sdp
