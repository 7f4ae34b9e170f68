// SPDX-License-Identifier: Apache-2.0
#include "optim/optimizer.hpp"

#include <cmath>

#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "kernels/core/compat.hpp"
#include "kernels/update/adamw.hpp"
#include "kernels/update/sgd.hpp"

namespace sdp {

namespace {

template <class T>
Kokkos::View<T*, MemSpace> to_device(std::string const& label, std::vector<T> const& values) {
  Kokkos::View<T*, MemSpace> view(Kokkos::view_alloc(Kokkos::WithoutInitializing, label),
                                  values.size());
  Kokkos::deep_copy(view,
                    Kokkos::View<T const*, HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>>(
                        values.data(), values.size()));
  return view;
}

}  // namespace

template <class V>
Optimizer<V>::Optimizer(OptimizerConfig const& config, ParameterTable const& table)
    : m_config(config) {
  std::vector<kernels::UpdateBlock> blocks;
  std::vector<kernels::RowSpan> rows;
  index_t logical_rows = 0;
  std::vector<index_t> first_row;
  for (TensorSpec const& tensor : table.tensors()) {
    first_row.push_back(logical_rows);
    logical_rows += tensor.rows;
  }
  for (Span const& span : table.spans()) {
    TensorSpec const& tensor = table.tensors()[span.tensor];
    const bool decays = config.decay == Decay::all || tensor.decay;
    kernels::append_update_blocks(blocks, span.offset, span.rows * tensor.cols, tensor.lr_factor,
                                  decays ? config.weight_decay : 0.0);
    for (index_t row = 0; row < span.rows; ++row)
      rows.push_back({span.offset + row * tensor.cols, tensor.cols,
                      first_row[span.tensor] + span.row_begin + row});
  }
  {
    MemoryScope scope(MemoryCategory::workspace);
    m_blocks = to_device("sdp::optim::blocks", blocks);
    m_norm_rows = to_device("sdp::optim::norm_rows", rows);
    m_row_sums = View1<double>("sdp::optim::row_sums", logical_rows);
    m_sum = Kokkos::View<double, MemSpace>("sdp::optim::sum");
    m_norm = Kokkos::View<double, MemSpace>("sdp::optim::norm");
    m_factor = Kokkos::View<double, MemSpace>("sdp::optim::factor");
    m_skip = Kokkos::View<int, MemSpace>("sdp::optim::skip");
  }
  MemoryScope scope(MemoryCategory::optimizer);
  const auto add = [&](char const* name) {
    m_moments.emplace_back(name, View1<V>(std::string("sdp::optim::") + name, table.size()));
  };
  if (config.kind == OptimizerKind::adamw) {
    add("exp_avg");
    add("exp_avg_sq");
  } else if (config.momentum != 0.0) {
    add("momentum");
  }
}

template <class V>
void Optimizer<V>::update(ExecSpace const& exec, double lr, View1<V> const& grads,
                          View1<V> const& weights) {
  Region region("sdp::optim::update");
  kernels::sum_squares(exec, m_norm_rows, grads, m_row_sums);
  kernels::tree_sum(exec, m_row_sums, m_sum);
  kernels::clip_factor(exec, m_sum, m_config.grad_clip, m_norm, m_factor, m_skip);
  if (m_config.kind == OptimizerKind::adamw) {
    const double t = static_cast<double>(m_updates + 1);
    const kernels::AdamWStep step{lr,
                                  m_config.beta1,
                                  m_config.beta2,
                                  m_config.eps,
                                  1.0 - std::pow(m_config.beta1, t),
                                  1.0 - std::pow(m_config.beta2, t)};
    kernels::adamw_update(exec, m_blocks, step, m_factor, m_skip, grads, m_moments[0].second,
                          m_moments[1].second, weights);
  } else {
    const kernels::SgdStep step{lr, m_config.momentum, m_config.nesterov, m_updates == 0};
    const View1<V> momentum = m_moments.empty() ? View1<V>() : m_moments[0].second;
    kernels::sgd_update(exec, m_blocks, step, m_factor, m_skip, grads, momentum, weights);
  }
}

template <class V>
UpdateResult Optimizer<V>::result(ExecSpace const& exec) {
  kernels::fence(exec, "sdp::optim::result");
  UpdateResult result;
  int skip = 0;
  Kokkos::deep_copy(result.grad_norm, m_norm);
  Kokkos::deep_copy(skip, m_skip);
  result.skipped = skip != 0;
  if (!result.skipped) m_updates += 1;
  return result;
}

template class Optimizer<float>;
template class Optimizer<double>;

}  // namespace sdp
