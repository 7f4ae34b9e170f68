// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "data/sampler.hpp"
#include "data/token_dataset.hpp"

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

/// Micro-batches for training: place tG + rG/R + mB + b of the global order is row b of micro-step
/// m of update t on rank r.
///
/// Reads on the calling thread into memory of the caller, who copies it to the device. (B,T): B
/// micro-batch, T sequence length, row-major.
class TrainReader {
 public:
  /// `data` outlives the reader. ConfigError where the plan does not divide or the data set has
  /// fewer than G samples.
  TrainReader(TokenDataset& data, std::uint64_t seed, BatchPlan const& plan);

  BatchPlan const& plan() const { return m_plan; }
  /// inputs (B,T) and targets (B,T), overwritten, for update `update` and micro-step `micro_step`,
  /// both from 0. DataError as TokenDataset::read.
  void read(index_t update, index_t micro_step, std::int32_t* inputs, std::int32_t* targets);

 private:
  TokenDataset& m_data;
  Sampler m_sampler;
  BatchPlan m_plan;
  std::vector<std::int32_t> m_row;  ///< (T+1)
};

/// Micro-batches for evaluation: the first N samples in file order, N = eval_batches * G or all.
/// Rank r owns samples [floor(rN/R), floor((r+1)N/R)); its last micro-batch may be partial, and one
/// of steps() may be empty.
class EvalReader {
 public:
  /// `eval_batches` 0: the whole data set. `data` outlives the reader.
  EvalReader(TokenDataset& data, BatchPlan const& plan, index_t eval_batches);

  index_t num_samples() const { return m_num_samples; }  ///< N, over all ranks
  index_t steps() const { return m_steps; }              ///< the same on every rank
  /// Rows of inputs and targets that micro-step `step` fills on this rank, 0 to B.
  index_t rows(index_t step) const;
  /// inputs (rows,T) and targets (rows,T), overwritten; later rows are left alone. Returns rows.
  index_t read(index_t step, std::int32_t* inputs, std::int32_t* targets);

 private:
  TokenDataset& m_data;
  index_t m_micro_batch;
  index_t m_num_samples;
  index_t m_begin;
  index_t m_end;
  index_t m_steps;
  std::vector<std::int32_t> m_row;  ///< (T+1)
};

}  // namespace sdp
