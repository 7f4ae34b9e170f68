// SPDX-License-Identifier: Apache-2.0
#include "comm/contribution_sum.hpp"

#include <algorithm>
#include <type_traits>

namespace sdp {

namespace {

template <class T>
Window1<T> window(T* data, index_t count) {
  return Window1<T>(data, static_cast<std::size_t>(count));
}

}  // namespace

template <class G>
ContributionSum<G>::ContributionSum(int workers, bool bf16_wire, index_t partial_elements,
                                    std::vector<void*> const& node_gradients)
    : m_bf16_wire(bf16_wire) {
  for (void* gradients : node_gradients) m_node_gradients.push_back(static_cast<G*>(gradients));
  m_terms.reserve(static_cast<std::size_t>(workers));
  if (bf16_wire) m_wire_terms.reserve(static_cast<std::size_t>(workers));
  if (partial_elements > 0)
    m_partials = View1<G>(Kokkos::view_alloc(Kokkos::WithoutInitializing, "sdp::comm::partials"),
                          static_cast<std::size_t>(partial_elements));
}

template <class G>
void ContributionSum<G>::add(ExecSpace const& exec, std::vector<Contribution> const& contributions,
                             double scale, View1<G> const& gradients, IndexRange const& range,
                             Received const& received, bool hand_back) {
  G* const own = gradients.data() + range.begin;
  const auto message = [&](Contribution const& term) {
    return received.slot + (*received.staging)[static_cast<std::size_t>(term.message)];
  };
  if constexpr (std::is_same_v<G, float>) {
    if (m_bf16_wire) {
      using Wire = kernels::bf16;
      m_wire_terms.clear();
      for (Contribution const& term : contributions)
        m_wire_terms.push_back(
            {term.leaf,
             term.message < 0 ? nullptr : reinterpret_cast<Wire*>(message(term)) + term.offset});
      kernels::rounded_ordered_sum(exec, m_wire_terms, scale, window(own, range.size()),
                                   window(m_partials.data(), m_partials.extent(0)), m_terms);
      return;
    }
  }
  const auto place = [&](Contribution const& term) {
    if (term.message < 0) return own;
    if (G* const theirs = of_peer(term)) return theirs + term.peer_begin;
    return reinterpret_cast<G*>(message(term)) + term.offset;
  };
  // In pieces so short that an average is in the cache when it is handed back.
  constexpr index_t k_piece = 8192;
  hand_back = hand_back && !m_node_gradients.empty();
  const index_t step = hand_back ? k_piece : range.size();
  for (index_t begin = 0; begin < range.size(); begin += step) {
    const index_t count = std::min(step, range.size() - begin);
    m_terms.clear();
    for (Contribution const& term : contributions)
      m_terms.push_back({term.leaf, place(term) + begin});
    kernels::ordered_sum(exec, m_terms, scale, window(own + begin, count));
    if (hand_back) hand_back_piece(exec, contributions, own + begin, begin, count);
  }
}

template <class G>
void ContributionSum<G>::hand_back(ExecSpace const& exec,
                                   std::vector<Contribution> const& contributions,
                                   View1<G> const& gradients, IndexRange const& range) const {
  hand_back_piece(exec, contributions, gradients.data() + range.begin, 0, range.size());
}

/// Elements [begin, begin + count) of the contributions.
template <class G>
void ContributionSum<G>::hand_back_piece(ExecSpace const& exec,
                                         std::vector<Contribution> const& contributions, G* average,
                                         index_t begin, index_t count) const {
  for (Contribution const& term : contributions)
    if (G* const theirs = of_peer(term))
      Kokkos::deep_copy(exec, window(theirs + term.peer_begin + begin, count),
                        window(average, count));
}

template class ContributionSum<float>;
template class ContributionSum<double>;

}  // namespace sdp
