// SPDX-License-Identifier: Apache-2.0
#include "data/batch_reader.hpp"

#include <algorithm>

namespace sdp {

namespace {

/// Row `row` of inputs and targets from the T + 1 tokens of a sample.
void split(std::vector<std::int32_t> const& tokens, index_t row, std::int32_t* inputs,
           std::int32_t* targets) {
  const auto seq_len = static_cast<index_t>(tokens.size()) - 1;
  std::copy(tokens.begin(), tokens.end() - 1, inputs + row * seq_len);
  std::copy(tokens.begin() + 1, tokens.end(), targets + row * seq_len);
}

}  // namespace

TrainReader::TrainReader(TokenDataset& data, std::uint64_t seed, BatchPlan const& plan)
    : m_data(data),
      m_order(seed, data.num_samples(), plan,
              data.key() + " has " + std::to_string(data.num_samples()) + " samples of " +
                  std::to_string(data.seq_len()) + " tokens"),
      m_row(static_cast<std::size_t>(data.seq_len() + 1)) {}

void TrainReader::read(index_t update, index_t micro_step, std::int32_t* inputs,
                       std::int32_t* targets) {
  for (index_t row = 0; row < plan().micro_batch; ++row) {
    m_data.read(m_order.at(update, micro_step, row).sample, m_row.data());
    split(m_row, row, inputs, targets);
  }
}

EvalReader::EvalReader(TokenDataset& data, BatchPlan const& plan, index_t eval_batches)
    : m_data(data),
      m_order(data.num_samples(), plan, eval_batches),
      m_row(static_cast<std::size_t>(data.seq_len() + 1)) {}

index_t EvalReader::read(index_t step, std::int32_t* inputs, std::int32_t* targets) {
  const index_t count = rows(step);
  for (index_t row = 0; row < count; ++row) {
    m_data.read(m_order.first(step) + row, m_row.data());
    split(m_row, row, inputs, targets);
  }
  return count;
}

}  // namespace sdp
