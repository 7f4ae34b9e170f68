// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "data/sampler.hpp"

namespace sdp {

/// How a global batch of G samples falls on R workers: rank r owns the r-th contiguous part, in
/// micro-batches of B samples. R * B divides G.
struct BatchPlan {
  index_t global_batch = 1;  ///< G
  index_t micro_batch = 1;   ///< B
  int ranks = 1;             ///< R
  int rank = 0;              ///< r

  index_t accumulation() const { return global_batch / (ranks * micro_batch); }
};

/// Which samples of a data set a rank trains on: place tG + rG/R + mB + b of the endless global
/// order is row b of micro-step m of update t on rank r. A pure function: the position of a run in
/// its data is the number of updates.
class TrainOrder {
 public:
  struct Place {
    index_t sample;  ///< in file order
    index_t epoch;   ///< how often the order has gone through the data set before
  };

  /// ConfigError where the plan does not divide or the data set has fewer than G samples; `what`
  /// names the data set and the samples it has.
  TrainOrder(std::uint64_t seed, index_t num_samples, BatchPlan const& plan,
             std::string const& what);

  BatchPlan const& plan() const { return m_plan; }
  Place at(index_t update, index_t micro_step, index_t row) const;

 private:
  Sampler m_sampler;
  BatchPlan m_plan;
};

/// Which samples a rank evaluates: of the first N in file order, N = eval_batches * G or all, rank
/// r owns [floor(rN/R), floor((r+1)N/R)). Its last micro-batch may be partial, and one of steps()
/// may be empty.
class EvalOrder {
 public:
  /// `eval_batches` 0: the whole data set. ConfigError for a plan that has no sense.
  EvalOrder(index_t num_samples, BatchPlan const& plan, index_t eval_batches);

  index_t num_samples() const { return m_num_samples; }  ///< N, over all ranks
  index_t steps() const { return m_steps; }              ///< the same on every rank
  /// Samples of micro-step `step` on this rank, 0 to B.
  index_t rows(index_t step) const;
  /// The first of them, in file order.
  index_t first(index_t step) const { return m_begin + step * m_micro_batch; }

 private:
  index_t m_micro_batch;
  index_t m_num_samples;
  index_t m_begin;
  index_t m_end;
  index_t m_steps;
};

}  // namespace sdp
