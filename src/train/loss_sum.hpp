// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/types.hpp"

namespace sdp {

/// Sum of the losses of this rank's tokens in one update, kept on the device. The losses of a
/// micro-batch are added by a fixed binary tree in double, micro-batches in their order.
class LossSum {
 public:
  explicit LossSum(index_t max_tokens);

  void reset(ExecSpace const& exec);
  /// Adds all elements of losses (at most max_tokens).
  void add(ExecSpace const& exec, View1<float> const& losses);
  void add(ExecSpace const& exec, View1<double> const& losses);
  /// Writes NaN into grads(0) when the sum is not finite: the averaged gradient then shows it to
  /// all ranks, without a message of its own.
  void poison_if_not_finite(ExecSpace const& exec, View1<float> const& grads);
  void poison_if_not_finite(ExecSpace const& exec, View1<double> const& grads);
  /// Waits for the sum.
  double value(ExecSpace const& exec) const;

 private:
  View1<double> m_work;                             // (max_tokens)
  Kokkos::View<double, MemSpace> m_part;            // () of the last micro-batch
  Kokkos::View<double, MemSpace> m_sum;             // ()
  Kokkos::View<double, PinnedSpace> m_sum_on_host;  // ()
};

}  // namespace sdp
