// SPDX-License-Identifier: Apache-2.0
#include "comm/contribution_sum.hpp"

#include <algorithm>
#include <type_traits>

#include "base/device_pool.hpp"

namespace sdp {

namespace {

/// Calls f(run, scale) for the sums that are averages of several contributions; what one worker
/// alone holds is its own average.
template <class F>
void for_averages(BucketSchedule const& bucket, F&& f) {
  for (OwnedRun const& run : bucket.owned)
    if (run.holders > 1) f(run, 1.0 / run.holders);
}

template <class T>
View1<T> on_device(char const* label, std::vector<T> const& list) {
  const auto view = allocate<View1<T>>(label, list.size());
  Kokkos::deep_copy(view, HostView1<T const>(list.data(), list.size()));
  return view;
}

}  // namespace

template <class G>
ContributionSum<G>::ContributionSum(ExchangeSchedule const& schedule, ExchangeLegs const& legs,
                                    bool bf16_wire, std::vector<void*> const& node_gradients)
    : m_bf16_wire(bf16_wire),
      m_hands_back(!node_gradients.empty() && schedule.gradient_return == GradientReturn::holders) {
  const auto element_bytes = static_cast<index_t>(bf16_wire ? sizeof(kernels::bf16) : sizeof(G));
  kernels::SumList list;
  std::vector<kernels::SumSource> sources;
  const auto append = [&](Leg const& leg, auto const& run, double scale) {
    sources.clear();
    for (Contribution const& term : run.contributions) {
      const bool own = term.message < 0;
      const index_t staging = own ? 0 : leg.staging[static_cast<std::size_t>(term.message)];
      if (own)
        sources.push_back({term.leaf, kernels::k_sum_own, run.gradients.begin});
      else if (staging == k_in_node)
        sources.push_back({term.leaf, term.peer, term.peer_begin});
      else
        sources.push_back(
            {term.leaf, kernels::k_sum_received, staging / element_bytes + term.offset});
    }
    kernels::append_sum(list, sources, scale, run.gradients.begin, run.gradients.size());
  };
  for (std::size_t b = 0; b < schedule.buckets.size(); ++b) {
    auto const& bucket_legs = legs.buckets()[b].legs;
    Bucket bucket;
    bucket.node_sums.begin = list.pieces.size();
    for (NodeRun const& run : schedule.buckets[b].node_sums)
      append(bucket_legs[node_receive], run, 1.0);
    bucket.node_sums.end = bucket.averages.begin = list.pieces.size();
    for_averages(schedule.buckets[b], [&](OwnedRun const& run, double scale) {
      append(bucket_legs[reduce_receive], run, scale);
    });
    bucket.averages.end = list.pieces.size();
    m_buckets.push_back(bucket);
  }
  std::vector<kernels::SumPeer<G>> peers;
  for (void* gradients : node_gradients) peers.push_back({static_cast<G*>(gradients)});
  m_peers = on_device("sdp::comm::node_gradients", peers);
  m_terms = on_device("sdp::comm::sum_terms", list.terms);
  m_pieces = on_device("sdp::comm::sum_pieces", list.pieces);
}

template <class G>
void ContributionSum<G>::add_node(ExecSpace const& exec, std::size_t bucket,
                                  View1<G> const& gradients, char const* slot) const {
  add(exec, m_buckets[bucket].node_sums, gradients, slot, false);
}

template <class G>
void ContributionSum<G>::average(ExecSpace const& exec, std::size_t bucket,
                                 View1<G> const& gradients, char const* slot) const {
  add(exec, m_buckets[bucket].averages, gradients, slot, m_hands_back);
}

template <class G>
void ContributionSum<G>::add(ExecSpace const& exec, Pieces const& range, View1<G> const& gradients,
                             char const* slot, bool hand_back) const {
  if constexpr (std::is_same_v<G, float>) {
    if (m_bf16_wire) {
      using Wire = kernels::bf16;
      kernels::ordered_sum(exec, m_terms, pieces(range),
                           kernels::SumBuffers<Wire, G>{
                               gradients.data(), reinterpret_cast<Wire const*>(slot), nullptr});
      return;
    }
  }
  kernels::ordered_sum(
      exec, m_terms, pieces(range),
      kernels::SumBuffers<G, G>{gradients.data(), reinterpret_cast<G const*>(slot), m_peers.data()},
      hand_back);
}

template <class G>
void ContributionSum<G>::hand_back(ExecSpace const& exec, std::size_t bucket,
                                   View1<G> const& gradients) const {
  if (m_hands_back)
    kernels::hand_back_sums(exec, m_terms, pieces(m_buckets[bucket].node_sums),
                            static_cast<G const*>(gradients.data()),
                            static_cast<kernels::SumPeer<G> const*>(m_peers.data()));
}

index_t sum_list_bytes(BucketSchedule const& bucket) {
  index_t terms = 0, pieces = 0;
  const auto count = [&](auto const& run) {
    terms += static_cast<index_t>(run.contributions.size());
    pieces += (run.gradients.size() + kernels::k_sum_piece - 1) / kernels::k_sum_piece;
  };
  for (NodeRun const& run : bucket.node_sums) count(run);
  for_averages(bucket, [&](OwnedRun const& run, double) { count(run); });
  return terms * static_cast<index_t>(sizeof(kernels::SumTerm)) +
         pieces * static_cast<index_t>(sizeof(kernels::SumPiece));
}

template class ContributionSum<float>;
template class ContributionSum<double>;

}  // namespace sdp
