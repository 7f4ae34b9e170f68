// SPDX-License-Identifier: Apache-2.0
#include "data/batch_order.hpp"

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

/// floor(a b / c) without overflow for b <= c, both small.
index_t share(index_t a, index_t b, index_t c) {
  return a / c * b + a % c * b / c;
}

}  // namespace

TrainOrder::TrainOrder(std::uint64_t seed, index_t num_samples, BatchPlan const& plan,
                       std::string const& what)
    : m_sampler(seed, num_samples), m_plan(plan) {
  check(plan);
  if (plan.global_batch % (plan.ranks * plan.micro_batch) != 0)
    throw ConfigError("train.global_batch = " + std::to_string(plan.global_batch) +
                      " is not a multiple of ranks * train.micro_batch = " +
                      std::to_string(plan.ranks) + " * " + std::to_string(plan.micro_batch));
  if (num_samples < plan.global_batch)
    throw ConfigError(what + ", too few for one batch of train.global_batch = " +
                      std::to_string(plan.global_batch));
}

TrainOrder::Place TrainOrder::at(index_t update, index_t micro_step, index_t row) const {
  const index_t place = update * m_plan.global_batch +
                        m_plan.rank * (m_plan.global_batch / m_plan.ranks) +
                        micro_step * m_plan.micro_batch + row;
  return {m_sampler.sample_at(place), place / m_sampler.num_samples()};
}

EvalOrder::EvalOrder(index_t num_samples, BatchPlan const& plan, index_t eval_batches)
    : m_micro_batch(plan.micro_batch), m_num_samples(num_samples) {
  check(plan);
  // The quotient first: eval_batches * global_batch may not fit in 64 bits.
  if (eval_batches > 0 && eval_batches <= m_num_samples / plan.global_batch)
    m_num_samples = eval_batches * plan.global_batch;
  m_begin = share(m_num_samples, plan.rank, plan.ranks);
  m_end = share(m_num_samples, plan.rank + 1, plan.ranks);
  const index_t most = (m_num_samples + plan.ranks - 1) / plan.ranks;
  m_steps = (most + m_micro_batch - 1) / m_micro_batch;
}

index_t EvalOrder::rows(index_t step) const {
  return std::clamp(m_end - m_begin - step * m_micro_batch, index_t{0}, m_micro_batch);
}

}  // namespace sdp
