// SPDX-License-Identifier: Apache-2.0
#include "data/batch_reader.hpp"

#include <algorithm>

#include "base/error.hpp"

namespace sdp {

namespace {

void check(BatchPlan const& plan) {
  if (plan.global_batch < 1 || plan.micro_batch < 1 || plan.ranks < 1 || plan.rank < 0 ||
      plan.rank >= plan.ranks)
    throw ConfigError("train.global_batch = " + std::to_string(plan.global_batch) +
                      " and train.micro_batch = " + std::to_string(plan.micro_batch) +
                      " must be at least 1 on rank " + std::to_string(plan.rank) + " of " +
                      std::to_string(plan.ranks));
}

/// Row `row` of inputs and targets from the T + 1 tokens of a sample.
void split(std::vector<std::int32_t> const& tokens, index_t row, std::int32_t* inputs,
           std::int32_t* targets) {
  const auto seq_len = static_cast<index_t>(tokens.size()) - 1;
  std::copy(tokens.begin(), tokens.end() - 1, inputs + row * seq_len);
  std::copy(tokens.begin() + 1, tokens.end(), targets + row * seq_len);
}

/// floor(a b / c) without overflow for b <= c, both small.
index_t share(index_t a, index_t b, index_t c) {
  return a / c * b + a % c * b / c;
}

}  // namespace

TrainReader::TrainReader(TokenDataset& data, std::uint64_t seed, BatchPlan const& plan)
    : m_data(data),
      m_sampler(seed, data.num_samples()),
      m_plan(plan),
      m_row(static_cast<std::size_t>(data.seq_len() + 1)) {
  check(plan);
  if (plan.global_batch % (plan.ranks * plan.micro_batch) != 0)
    throw ConfigError("train.global_batch = " + std::to_string(plan.global_batch) +
                      " is not a multiple of ranks * train.micro_batch = " +
                      std::to_string(plan.ranks) + " * " + std::to_string(plan.micro_batch));
  if (data.num_samples() < plan.global_batch)
    throw ConfigError(data.key() + " has " + std::to_string(data.num_samples()) + " samples of " +
                      std::to_string(data.seq_len()) +
                      " tokens, too few for one batch of train.global_batch = " +
                      std::to_string(plan.global_batch));
}

void TrainReader::read(index_t update, index_t micro_step, std::int32_t* inputs,
                       std::int32_t* targets) {
  const index_t first = update * m_plan.global_batch +
                        m_plan.rank * (m_plan.global_batch / m_plan.ranks) +
                        micro_step * m_plan.micro_batch;
  for (index_t row = 0; row < m_plan.micro_batch; ++row) {
    m_data.read(m_sampler.sample_at(first + row), m_row.data());
    split(m_row, row, inputs, targets);
  }
}

EvalReader::EvalReader(TokenDataset& data, BatchPlan const& plan, index_t eval_batches)
    : m_data(data),
      m_micro_batch(plan.micro_batch),
      m_num_samples(data.num_samples()),
      m_row(static_cast<std::size_t>(data.seq_len() + 1)) {
  check(plan);
  // The quotient first: eval_batches * global_batch may not fit in 64 bits.
  if (eval_batches > 0 && eval_batches <= m_num_samples / plan.global_batch)
    m_num_samples = eval_batches * plan.global_batch;
  m_begin = share(m_num_samples, plan.rank, plan.ranks);
  m_end = share(m_num_samples, plan.rank + 1, plan.ranks);
  const index_t most = (m_num_samples + plan.ranks - 1) / plan.ranks;
  m_steps = (most + m_micro_batch - 1) / m_micro_batch;
}

index_t EvalReader::rows(index_t step) const {
  return std::clamp(m_end - m_begin - step * m_micro_batch, index_t{0}, m_micro_batch);
}

index_t EvalReader::read(index_t step, std::int32_t* inputs, std::int32_t* targets) {
  const index_t count = rows(step);
  for (index_t row = 0; row < count; ++row) {
    m_data.read(m_begin + step * m_micro_batch + row, m_row.data());
    split(m_row, row, inputs, targets);
  }
  return count;
}

}  // namespace sdp
