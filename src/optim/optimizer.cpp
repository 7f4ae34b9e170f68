// SPDX-License-Identifier: Apache-2.0
#include "optim/optimizer.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "base/device_pool.hpp"
#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "kernels/core/compat.hpp"
#include "kernels/update/adamw.hpp"
#include "kernels/update/sgd.hpp"
#include "kernels/update/statistics.hpp"

namespace sdp {

namespace {

template <class T>
Kokkos::View<T*, MemSpace> to_device(std::string const& label, std::vector<T> const& values) {
  const auto view = allocate<Kokkos::View<T*, MemSpace>>(label, values.size());
  Kokkos::deep_copy(view,
                    Kokkos::View<T const*, HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>>(
                        values.data(), values.size()));
  return view;
}

/// Rows of one tensor that lie next to each other in the gradients and in the weights.
struct RowRun {
  int tensor;
  index_t rows;
  index_t gradient;
  index_t weight;
};

/// The gradient table's rows with their places in the weights; neighbouring spans are joined.
std::vector<RowRun> row_runs(UpdateScope const& scope) {
  std::vector<RowRun> runs;
  auto const& stored = scope.weights.spans();
  std::size_t s = 0;
  for (Span const& span : scope.gradients.spans()) {
    const index_t cols = scope.gradients.tensors()[span.tensor].cols;
    for (index_t row = span.row_begin; row < span.row_begin + span.rows;) {
      while (s < stored.size() &&
             (stored[s].tensor < span.tensor ||
              (stored[s].tensor == span.tensor && stored[s].row_begin + stored[s].rows <= row)))
        ++s;
      if (s == stored.size() || stored[s].tensor != span.tensor || stored[s].row_begin > row)
        throw std::invalid_argument("Optimizer: " + scope.gradients.tensors()[span.tensor].name +
                                    " has a gradient where it has no weight");
      const index_t rows =
          std::min(span.row_begin + span.rows, stored[s].row_begin + stored[s].rows) - row;
      const index_t gradient = span.offset + (row - span.row_begin) * cols;
      const index_t weight = stored[s].offset + (row - stored[s].row_begin) * cols;
      RowRun* const last = runs.empty() ? nullptr : &runs.back();
      if (last != nullptr && last->tensor == span.tensor &&
          last->gradient + last->rows * cols == gradient &&
          last->weight + last->rows * cols == weight)
        last->rows += rows;
      else
        runs.push_back({span.tensor, rows, gradient, weight});
      row += rows;
    }
  }
  return runs;
}

/// The parts of a run inside ascending ranges of the gradient buffer; f(range, begin, end) in
/// elements of that buffer.
template <class F>
void for_each_owned(RowRun const& run, index_t cols, std::vector<IndexRange> const& owned,
                    F const& f) {
  const index_t end = run.gradient + run.rows * cols;
  auto range = std::partition_point(owned.begin(), owned.end(), [&](IndexRange const& candidate) {
    return candidate.end <= run.gradient;
  });
  for (; range != owned.end() && range->begin < end; ++range) {
    const index_t first = std::max(run.gradient, range->begin), last = std::min(end, range->end);
    if ((first - run.gradient) % cols != 0 || (last - run.gradient) % cols != 0)
      throw std::invalid_argument("Optimizer: an owned range divides a row");
    f(static_cast<std::size_t>(range - owned.begin()), first, last);
  }
}

}  // namespace

template <class V>
Optimizer<V>::Optimizer(OptimizerConfig const& config, UpdateScope const& scope)
    : m_config(config) {
  std::vector<kernels::UpdateBlock> blocks, statistics;
  std::vector<kernels::RowSpan> rows;
  std::vector<index_t> packed{0};  // offset of each owned range among all of them
  for (IndexRange const& range : scope.owned) packed.push_back(packed.back() + range.size());
  for (RowRun const& run : row_runs(scope)) {
    TensorSpec const& tensor = scope.gradients.tensors()[run.tensor];
    const double decay = config.decay == Decay::all || tensor.decay ? config.weight_decay : 0.0;
    auto& list = tensor.statistic ? statistics : blocks;
    if (!scope.sharded)
      kernels::append_update_blocks(list, {run.gradient, run.gradient, run.weight,
                                           run.rows * tensor.cols, tensor.lr_factor, decay});
    for_each_owned(
        run, tensor.cols, scope.owned, [&](std::size_t range, index_t begin, index_t end) {
          if (scope.sharded)
            kernels::append_update_blocks(
                list, {begin, packed[range] + begin - scope.owned[range].begin,
                       run.weight + begin - run.gradient, end - begin, tensor.lr_factor, decay});
          if (tensor.statistic) return;
          for (index_t at = begin; at < end; at += tensor.cols)
            rows.push_back({at, tensor.cols, static_cast<index_t>(rows.size())});
        });
  }
  {
    MemoryScope memory(MemoryCategory::workspace);
    m_blocks = to_device("sdp::optim::blocks", blocks);
    m_statistics = to_device("sdp::optim::statistic_blocks", statistics);
    m_norm_rows = to_device("sdp::optim::norm_rows", rows);
    m_row_sums = allocate<View1<double>>("sdp::optim::row_sums", rows.size());
    m_digits = View1<std::int64_t>("sdp::optim::norm_digits", kernels::k_exact_size);
    m_sum = Kokkos::View<double, MemSpace>("sdp::optim::sum");
    m_norm = Kokkos::View<double, MemSpace>("sdp::optim::norm");
    m_factor = Kokkos::View<double, MemSpace>("sdp::optim::factor");
    m_skip = Kokkos::View<int, MemSpace>("sdp::optim::skip");
    m_norm_on_host = Kokkos::View<double, PinnedSpace>("sdp::optim::norm_on_host");
    m_skip_on_host = Kokkos::View<int, PinnedSpace>("sdp::optim::skip_on_host");
  }
  MemoryScope memory(MemoryCategory::optimizer);
  const index_t kept = scope.sharded ? packed.back() : scope.gradients.size();
  const auto zeros = [&](char const* name) {
    const auto state = allocate<View1<Wide>>(std::string("sdp::optim::") + name, kept);
    Kokkos::deep_copy(state, Wide(0));
    return state;
  };
  const auto add = [&](char const* name) { m_moments.emplace_back(name, zeros(name)); };
  if constexpr (k_mixed) m_master = zeros("master");
  if (config.kind == OptimizerKind::adamw) {
    add("exp_avg");
    add("exp_avg_sq");
  } else if (config.momentum != 0.0) {
    add("momentum");
  }
}

template <class V>
std::int64_t Optimizer<V>::most_list_bytes(ParameterTable const& gradients) {
  index_t rows = 0;
  for (Span const& span : gradients.spans()) rows += span.rows;
  // Every owned range and every run of rows ends with a block that may be short, and holds a row.
  const index_t blocks = gradients.size() / kernels::k_update_block_size + rows;
  return rows * static_cast<index_t>(sizeof(kernels::RowSpan) + sizeof(double)) +
         blocks * static_cast<index_t>(sizeof(kernels::UpdateBlock));
}

template <class V>
void Optimizer<V>::measure(ExecSpace const& exec, View1<Wide> const& grads) {
  Region region("sdp::optim::measure");
  kernels::sum_squares(exec, m_norm_rows, grads, m_row_sums);
  Kokkos::deep_copy(exec, m_digits, std::int64_t{0});
  kernels::exact_sum(exec, m_row_sums, m_digits);
}

template <class V>
void Optimizer<V>::update(ExecSpace const& exec, double lr, View1<Wide> const& grads,
                          View1<V> const& weights, double statistics_kept) {
  Region region("sdp::optim::update");
  kernels::exact_sum_value(exec, m_digits, m_sum);
  kernels::clip_factor(exec, m_sum, m_config.grad_clip, m_norm, m_factor, m_skip);
  if (m_config.kind == OptimizerKind::adamw) {
    const double t = static_cast<double>(m_updates + 1);
    const kernels::AdamWStep step{lr,
                                  m_config.beta1,
                                  m_config.beta2,
                                  m_config.eps,
                                  1.0 - std::pow(m_config.beta1, t),
                                  1.0 - std::pow(m_config.beta2, t)};
    auto const &first = m_moments[0].second, &second = m_moments[1].second;
    if constexpr (k_mixed)
      kernels::adamw_update(exec, m_blocks, step, m_factor, m_skip, grads, first, second, m_master,
                            weights);
    else
      kernels::adamw_update(exec, m_blocks, step, m_factor, m_skip, grads, first, second, weights);
  } else {
    const kernels::SgdStep step{lr, m_config.momentum, m_config.nesterov, m_updates == 0};
    const View1<Wide> momentum = m_moments.empty() ? View1<Wide>() : m_moments[0].second;
    if constexpr (k_mixed)
      kernels::sgd_update(exec, m_blocks, step, m_factor, m_skip, grads, momentum, m_master,
                          weights);
    else
      kernels::sgd_update(exec, m_blocks, step, m_factor, m_skip, grads, momentum, weights);
  }
  if constexpr (k_mixed)
    kernels::statistics_update(exec, m_statistics, statistics_kept, m_skip, grads, m_master,
                               weights);
  else
    kernels::statistics_update(exec, m_statistics, statistics_kept, m_skip, grads, weights);
  Kokkos::deep_copy(exec, m_norm_on_host, m_norm);
  Kokkos::deep_copy(exec, m_skip_on_host, m_skip);
}

template <class V>
UpdateResult Optimizer<V>::result(ExecSpace const& exec) {
  kernels::fence(exec, "sdp::optim::result");
  UpdateResult result;
  result.grad_norm = m_norm_on_host();
  result.skipped = m_skip_on_host() != 0;
  if (!result.skipped) m_updates += 1;
  return result;
}

template class Optimizer<float>;
template class Optimizer<double>;
template class Optimizer<kernels::bf16>;

}  // namespace sdp
