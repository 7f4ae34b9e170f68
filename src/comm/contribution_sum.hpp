// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "base/types.hpp"
#include "comm/schedule.hpp"
#include "kernels/core/bf16.hpp"
#include "kernels/update/ordered_sum.hpp"

namespace sdp {

/// Adds the contributions of an exchange where they lie: in this worker's gradients, in messages
/// that have been received, or in the gradients of workers whose memory this process addresses.
template <class G>
class ContributionSum {
 public:
  /// Messages of one leg that have been received: each is staging[number] bytes into the slot.
  struct Received {
    char* slot = nullptr;
    std::vector<index_t> const* staging = nullptr;
  };

  /// `partial_elements`: of ExchangeLegs; `node_gradients`: of ExchangeOptions. Allocates.
  ContributionSum(int workers, bool bf16_wire, index_t partial_elements,
                  std::vector<void*> const& node_gradients);

  /// gradients(range) = scale * sum of the contributions, one of which is what stands there
  /// already; kernels::ordered_sum. With `hand_back` as well in the gradients of the contributors
  /// whose memory this process addresses.
  void add(ExecSpace const& exec, std::vector<Contribution> const& contributions, double scale,
           View1<G> const& gradients, IndexRange const& range, Received const& received,
           bool hand_back);

  /// Stores gradients(range) in the gradients of those contributors.
  void hand_back(ExecSpace const& exec, std::vector<Contribution> const& contributions,
                 View1<G> const& gradients, IndexRange const& range) const;

 private:
  G* of_peer(Contribution const& term) const {
    return m_node_gradients.empty() || term.message < 0
               ? nullptr
               : m_node_gradients[static_cast<std::size_t>(term.peer)];
  }
  void hand_back_piece(ExecSpace const& exec, std::vector<Contribution> const& contributions,
                       G* average, index_t begin, index_t count) const;

  bool m_bf16_wire;
  std::vector<G*> m_node_gradients;  ///< by worker; null where not addressed
  std::vector<kernels::SumTerm<G>> m_terms;
  std::vector<kernels::SumTerm<kernels::bf16>> m_wire_terms;
  View1<G> m_partials;
};

}  // namespace sdp
