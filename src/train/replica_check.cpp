// SPDX-License-Identifier: Apache-2.0
#include "train/replica_check.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "base/memory_ledger.hpp"
#include "base/region.hpp"
#include "kernels/core/compat.hpp"

namespace sdp {

namespace {

constexpr index_t k_span_elements = 16384;  // hashed by one team

/// Slot of a span: units first, then tensors.
std::size_t slot_of(Span const& span, std::size_t units) {
  return span.unit == k_shared ? units + static_cast<std::size_t>(span.tensor)
                               : static_cast<std::size_t>(span.unit);
}

}  // namespace

template <class V>
ReplicaCheck<V>::ReplicaCheck(World const& world, Arrangement const& arrangement) : m_world(world) {
  ParameterTable const& table = arrangement.weights(world.worker());
  const std::size_t units = arrangement.units.units.size();
  for (Unit const& unit : arrangement.units.units) m_names.push_back(unit.name);
  for (TensorSpec const& tensor : table.tensors()) m_names.push_back(tensor.name);
  const auto mark = [&](ParameterTable const& of) {
    std::vector<char> stored(m_names.size(), 0);
    for (Span const& span : of.spans())
      if (span.rows > 0) stored[slot_of(span, units)] = 1;
    return stored;
  };
  m_mine = mark(table);
  m_workers.assign(m_names.size(), 0);
  std::vector<std::int64_t> share(arrangement.layout.gradients.size(), 0);
  std::vector<int> member(share.size(), 0);
  for (int worker = 0; worker < arrangement.workers(); ++worker) {
    const auto s = static_cast<std::size_t>(arrangement.subnetwork_of_worker[worker]);
    ++share[s];
    member[s] = worker;
  }
  for (std::size_t s = 0; s < share.size(); ++s) {
    if (share[s] == 0) continue;
    const auto stored = mark(arrangement.weights(member[s]));
    for (std::size_t slot = 0; slot < stored.size(); ++slot)
      if (stored[slot]) m_workers[slot] += share[s];
  }

  std::vector<kernels::HashSpan> spans;
  std::vector<index_t> first{0};  // logical index of each tensor
  for (TensorSpec const& tensor : table.tensors()) first.push_back(first.back() + tensor.size());
  for (Span const& span : table.spans()) {
    const index_t cols = table.tensors()[span.tensor].cols;
    const index_t count = span.rows * cols;
    const index_t logical = first[static_cast<std::size_t>(span.tensor)] + span.row_begin * cols;
    for (index_t done = 0; done < count; done += k_span_elements)
      spans.push_back({span.offset + done, std::min(k_span_elements, count - done), logical + done,
                       static_cast<index_t>(slot_of(span, units))});
  }
  const MemoryScope scope(MemoryCategory::workspace);
  m_hashes = View1<std::uint64_t>("sdp::train::replica_hashes", m_names.size());
  m_spans = Kokkos::View<kernels::HashSpan*, MemSpace>("sdp::train::hash_spans", spans.size());
  Kokkos::deep_copy(
      m_spans,
      Kokkos::View<kernels::HashSpan const*, HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>>(
          spans.data(), spans.size()));
}

template <class V>
void ReplicaCheck<V>::run(ExecSpace const& exec, View1<V> const& weights) const {
  const Region region("sdp::train::replica_check");
  Kokkos::deep_copy(exec, m_hashes, std::uint64_t{0});
  kernels::replica_hash(exec, m_spans, weights, m_hashes);
  kernels::fence(exec, "sdp::train::replica_check");
  const auto hashes = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), m_hashes);
  // Equal copies of h workers add up to h times one of them, in halves that cannot overflow.
  const std::size_t slots = m_names.size();
  const auto half_sum = [&](std::size_t slot, int which) {
    return static_cast<std::int64_t>(hashes(slot) >> (32 * which) & 0xffffffffu);
  };
  std::vector<std::int64_t> sums(2 * slots, 0);
  for (std::size_t slot = 0; slot < slots; ++slot)
    if (m_mine[slot])
      for (int which : {0, 1})
        sums[2 * slot + static_cast<std::size_t>(which)] = half_sum(slot, which);
  m_world.sum_in_place(sums);
  std::vector<std::int64_t> differs(slots, 0);
  for (std::size_t slot = 0; slot < slots; ++slot)
    if (m_mine[slot])
      for (int which : {0, 1})
        if (sums[2 * slot + static_cast<std::size_t>(which)] !=
            m_workers[slot] * half_sum(slot, which))
          differs[slot] = 1;
  if (!m_world.any(std::any_of(differs.begin(), differs.end(), [](auto d) { return d != 0; })))
    return;
  m_world.sum_in_place(differs);
  std::string names;
  int count = 0;
  for (std::size_t slot = 0; slot < slots; ++slot)
    if (differs[slot] != 0 && ++count <= 3) names += (count > 1 ? ", " : "") + m_names[slot];
  m_world.collectively([&] {
    throw CommunicationError("copies of the weights differ between ranks in " + names +
                             (count > 3 ? " and " + std::to_string(count - 3) + " more" : "") +
                             ": memory or messages of a rank are damaged");
  });
}

template class ReplicaCheck<float>;
template class ReplicaCheck<double>;
template class ReplicaCheck<kernels::bf16>;

}  // namespace sdp
