// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "base/phase_clock.hpp"
#include "base/types.hpp"
#include "comm/world.hpp"
#include "config/config.hpp"
#include "kernels/core/compat.hpp"
#include "train/batches.hpp"
#include "train/loss_sum.hpp"
#include "train/worker_state.hpp"

namespace sdp {

/// Milliseconds that one update spent in its phases on this rank: on the device, where it has
/// events. exchange: what forward waited for arriving weights, and what came between backward and
/// the update.
struct StepTimes {
  double step = 0, forward = 0, backward = 0, exchange = 0, optimizer = 0;
};

/// One update of a run: reads the rank's micro-batches, runs forward and backward with the exchange
/// beside them, and updates the weights. Keeps the batch buffers; everything that depends on the
/// mask is in the WorkerState that it works on.
template <class V>
class TrainingStep {
 public:
  /// Collective. The world, the configuration and the data must outlive the step.
  TrainingStep(World const& world, Config const& config, DataSet& data);

  BatchPlan const& plan() const { return m_batches.plan(); }

  /// Update number `step` (from 0). Collective. When it returns the update is complete but for the
  /// new weights of other owners, which may still be arriving (Exchange::finish_return).
  StepTimes update(ExecSpace const& exec, WorkerState<V>& worker, std::int64_t step);

  /// Mean loss over all targets of the last update, before it. Collective. One sum per rank, added
  /// in rank order: the same bits wherever it is computed.
  double loss(ExecSpace const& exec) const;

 private:
  void read(typename WorkerState<V>::WorkerExchange& exchange, std::int64_t number,
            index_t micro_batch);

  World const& m_world;
  Config const& m_config;
  TrainBatches<V> m_batches;
  index_t m_targets_per_sample;
  PhaseClock m_clock;
  PhaseClock m_waits;                   ///< pairs of marks around what forward may wait for
  View1<kernels::accum_t<V>> m_losses;  // (targets of a micro-batch)
  std::optional<LossSum> m_loss_sum;
};

extern template class TrainingStep<float>;
extern template class TrainingStep<double>;
extern template class TrainingStep<kernels::bf16>;

}  // namespace sdp
