// SPDX-License-Identifier: Apache-2.0
#include "train/loss_sum.hpp"

#include <limits>

#include "base/memory_ledger.hpp"
#include "kernels/core/compat.hpp"
#include "kernels/update/norm.hpp"

namespace sdp {

namespace {

template <class V>
void add_losses(ExecSpace const& exec, View1<V> const& losses, View1<double> const& work,
                Kokkos::View<double, MemSpace> const& part,
                Kokkos::View<double, MemSpace> const& sum) {
  const auto count = static_cast<index_t>(losses.extent(0));
  const Window1<double> values(work.data(), count);
  Kokkos::parallel_for(
      "sdp::train::widen_losses",
      Kokkos::RangePolicy<ExecSpace, Kokkos::IndexType<index_t>>(exec, 0, count),
      KOKKOS_LAMBDA(index_t i) { values(i) = static_cast<double>(losses(i)); });
  kernels::tree_sum(exec, values, part);
  Kokkos::parallel_for(
      "sdp::train::add_loss", Kokkos::RangePolicy<ExecSpace>(exec, 0, 1),
      KOKKOS_LAMBDA(int) { sum() += part(); });
}

template <class V>
void poison(ExecSpace const& exec, Kokkos::View<double, MemSpace> const& sum,
            View1<V> const& grads) {
  const V nan = std::numeric_limits<V>::quiet_NaN();
  Kokkos::parallel_for(
      "sdp::train::poison_if_not_finite", Kokkos::RangePolicy<ExecSpace>(exec, 0, 1),
      KOKKOS_LAMBDA(int) {
        // A difference of a finite number with itself is zero; of NaN or infinity it is NaN.
        if (!(sum() - sum() == 0.0)) grads(0) = nan;
      });
}

}  // namespace

LossSum::LossSum(index_t max_tokens) {
  MemoryScope scope(MemoryCategory::workspace);
  m_work = View1<double>("sdp::train::loss_work", max_tokens);
  m_part = Kokkos::View<double, MemSpace>("sdp::train::loss_part");
  m_sum = Kokkos::View<double, MemSpace>("sdp::train::loss_sum");
  m_sum_on_host = Kokkos::View<double, PinnedSpace>("sdp::train::loss_sum_on_host");
}

void LossSum::reset(ExecSpace const& exec) {
  Kokkos::deep_copy(exec, m_sum, 0.0);
}
void LossSum::add(ExecSpace const& exec, View1<float> const& losses) {
  add_losses(exec, losses, m_work, m_part, m_sum);
}
void LossSum::add(ExecSpace const& exec, View1<double> const& losses) {
  add_losses(exec, losses, m_work, m_part, m_sum);
}
void LossSum::poison_if_not_finite(ExecSpace const& exec, View1<float> const& grads) {
  poison(exec, m_sum, grads);
}
void LossSum::poison_if_not_finite(ExecSpace const& exec, View1<double> const& grads) {
  poison(exec, m_sum, grads);
}
double LossSum::value(ExecSpace const& exec) const {
  Kokkos::deep_copy(exec, m_sum_on_host, m_sum);
  kernels::fence(exec, "sdp::train::loss_sum");
  return m_sum_on_host();
}

}  // namespace sdp
