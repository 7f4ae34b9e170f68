// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "data/batch_order.hpp"
#include "data/token_dataset.hpp"

namespace sdp {

/// Micro-batches of tokens for training, in the order of TrainOrder.
///
/// Reads on the calling thread into memory of the caller, who copies it to the device. (B,T): B
/// micro-batch, T sequence length, row-major.
class TrainReader {
 public:
  /// `data` outlives the reader. ConfigError as TrainOrder.
  TrainReader(TokenDataset& data, std::uint64_t seed, BatchPlan const& plan);

  BatchPlan const& plan() const { return m_order.plan(); }
  /// inputs (B,T) and targets (B,T), overwritten, for update `update` and micro-step `micro_step`,
  /// both from 0. DataError as TokenDataset::read.
  void read(index_t update, index_t micro_step, std::int32_t* inputs, std::int32_t* targets);

 private:
  TokenDataset& m_data;
  TrainOrder m_order;
  std::vector<std::int32_t> m_row;  ///< (T+1)
};

/// Micro-batches of tokens for evaluation, in the order of EvalOrder.
class EvalReader {
 public:
  /// `eval_batches` 0: the whole data set. `data` outlives the reader.
  EvalReader(TokenDataset& data, BatchPlan const& plan, index_t eval_batches);

  index_t num_samples() const { return m_order.num_samples(); }  ///< over all ranks
  index_t steps() const { return m_order.steps(); }              ///< the same on every rank
  /// Rows of inputs and targets that micro-step `step` fills on this rank, 0 to B.
  index_t rows(index_t step) const { return m_order.rows(step); }
  /// inputs (rows,T) and targets (rows,T), overwritten; later rows are left alone. Returns rows.
  index_t read(index_t step, std::int32_t* inputs, std::int32_t* targets);

 private:
  TokenDataset& m_data;
  EvalOrder m_order;
  std::vector<std::int32_t> m_row;  ///< (T+1)
};

}  // namespace sdp
