// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/index_range.hpp"
#include "base/parameter_table.hpp"
#include "base/types.hpp"
#include "config/config.hpp"
#include "kernels/update/blocks.hpp"
#include "kernels/update/exact_sum.hpp"
#include "kernels/update/norm.hpp"

namespace sdp {

/// What one update found out, read back after it. Equal on every rank.
struct UpdateResult {
  double grad_norm = 0;  ///< of the averaged gradient, before clipping
  bool skipped = false;  ///< the norm is not finite and nothing was changed
};

/// What one worker updates, and how its buffers are laid out. With `sharded` it updates the owned
/// ranges alone and keeps moments for nothing else; without, everything that has a gradient here.
struct UpdateScope {
  ParameterTable const& gradients;
  ParameterTable const& weights;  ///< holds at least the rows of `gradients`
  std::vector<IndexRange> owned;  ///< of the gradient buffer, whole rows, ascending; over all
                                  ///< workers they cover every row of the model once
  bool sharded = false;

  /// One worker that has everything.
  static UpdateScope whole(ParameterTable const& table) {
    return {table, table, {{0, table.size()}}, false};
  }
};

/// Clipping, AdamW or SGD on the flat buffers of one worker.
///
/// The norm of the averaged gradient counts every row of the model once, on its owner: a sum in
/// double per row, then an exact sum over rows and workers, so its bits depend on nothing but the
/// gradient. A step whose norm is not finite changes nothing. Running statistics
/// (TensorSpec::statistic) are no part of the norm: what the batches of an update contribute to
/// them lies in the place of their gradients, and its average over the holders is added to what is
/// kept of the stored ones.
///
/// V: storage type of the weights. Gradients and moments have the type in which V is summed. Where
/// that is wider (bf16), every element that is updated here has a master weight in it: updates are
/// made there, and the stored weight is the master weight rounded once.
///
///   optimizer.measure(exec, grads);           // sums of the owned rows
///   ... add norm_digits() over all workers ...
///   optimizer.update(exec, lr, grads, weights);
template <class V>
class Optimizer {
 public:
  using Wide = kernels::accum_t<V>;
  static constexpr bool k_mixed = !std::is_same_v<V, Wide>;

  Optimizer(OptimizerConfig const& config, UpdateScope const& scope);

  /// The most bytes that it takes beside its state, for lists of rows and blocks, whatever part of
  /// these gradients it owns.
  static std::int64_t most_list_bytes(ParameterTable const& gradients);

  /// Moments by their names in checkpoints: exp_avg and exp_avg_sq, or momentum. Laid out as the
  /// gradients or, when sharded, the owned ranges end to end.
  std::vector<std::pair<std::string, View1<Wide>>> const& moments() const { return m_moments; }
  /// Master weights, laid out as the moments; empty unless k_mixed. Whoever sets them sets the
  /// stored weights to the same values rounded.
  View1<Wide> const& master() const { return m_master; }

  /// Number of updates done, which Adam's bias correction counts; skipped ones are not.
  std::int64_t updates() const { return m_updates; }
  void set_updates(std::int64_t updates) { m_updates = updates; }

  /// Sets norm_digits() to the exact sum of the squares of the owned rows of grads.
  void measure(ExecSpace const& exec, View1<Wide> const& grads);
  /// (kernels::k_exact_size) see kernels::exact_sum. Whoever has several workers adds them up
  /// element by element, in any order, between measure() and update().
  View1<std::int64_t> const& norm_digits() const { return m_digits; }

  /// One update with learning rate lr (the schedule's, before the tensors' own factors); grads is
  /// the averaged gradient and is left alone, weights are updated in place. statistics_kept: the
  /// share of running statistics that stays, see Model::statistics_kept. Only launches kernels.
  void update(ExecSpace const& exec, double lr, View1<Wide> const& grads, View1<V> const& weights,
              double statistics_kept = 0.0);

  /// Waits for the last update and says what it did. Call it once per update.
  UpdateResult result(ExecSpace const& exec);

 private:
  OptimizerConfig m_config;
  Kokkos::View<kernels::UpdateBlock*, MemSpace> m_blocks;      // (blocks)
  Kokkos::View<kernels::UpdateBlock*, MemSpace> m_statistics;  // (blocks of running statistics)
  Kokkos::View<kernels::RowSpan*, MemSpace> m_norm_rows;       // (owned rows)
  View1<double> m_row_sums;                                    // (owned rows)
  View1<std::int64_t> m_digits;                                // (k_exact_size)
  Kokkos::View<double, MemSpace> m_sum;                        // ()
  Kokkos::View<double, MemSpace> m_norm;                       // ()
  Kokkos::View<double, MemSpace> m_factor;                     // () clip factor
  Kokkos::View<int, MemSpace> m_skip;                          // ()
  Kokkos::View<double, PinnedSpace> m_norm_on_host;            // ()
  Kokkos::View<int, PinnedSpace> m_skip_on_host;               // ()
  std::vector<std::pair<std::string, View1<Wide>>> m_moments;
  View1<Wide> m_master;
  std::int64_t m_updates = 0;
};

extern template class Optimizer<float>;
extern template class Optimizer<double>;
extern template class Optimizer<kernels::bf16>;

}  // namespace sdp
