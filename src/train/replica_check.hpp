// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/types.hpp"
#include "comm/world.hpp"
#include "kernels/update/replica_hash.hpp"
#include "train/arrangement.hpp"

namespace sdp {

/// Compares the copies of the weights: one hash per unit and per shared tensor on every worker that
/// stores it, 16 bytes each on the wire.
template <class V>
class ReplicaCheck {
 public:
  ReplicaCheck(World const& world, Arrangement const& arrangement);

  /// Collective. Throws the same CommunicationError on every rank, with the names of the first
  /// units or tensors that differ, when copies of a weight are not equal bit for bit.
  void run(ExecSpace const& exec, View1<V> const& weights) const;

 private:
  World const& m_world;
  std::vector<std::string> m_names;     // (slots)
  std::vector<std::int64_t> m_workers;  // (slots) that store it
  std::vector<char> m_mine;             // (slots) whether this one does
  Kokkos::View<kernels::HashSpan*, MemSpace> m_spans;
  View1<std::uint64_t> m_hashes;  // (slots)
};

extern template class ReplicaCheck<float>;
extern template class ReplicaCheck<double>;
extern template class ReplicaCheck<kernels::bf16>;

}  // namespace sdp
