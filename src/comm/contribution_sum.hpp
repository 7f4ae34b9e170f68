// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

#include "base/types.hpp"
#include "comm/exchange_legs.hpp"
#include "comm/schedule.hpp"
#include "kernels/core/bf16.hpp"
#include "kernels/update/ordered_sum.hpp"

namespace sdp {

/// Adds the contributions of an exchange where they lie: in this worker's gradients, in messages
/// that have been received, or in the gradients of workers whose memory this process addresses.
/// The lists of all sums are made before the first step; in a step every function is one kernel.
template <class G>
class ContributionSum {
 public:
  /// `node_gradients`: of ExchangeOptions; the legs are made for the same. Allocates.
  ContributionSum(ExchangeSchedule const& schedule, ExchangeLegs const& legs, bool bf16_wire,
                  std::vector<void*> const& node_gradients);

  /// Sums for the owners of a bucket, in place of this worker's gradients: its node_sums.
  /// `slot`: the staging memory of the bucket.
  void add_node(ExecSpace const& exec, std::size_t bucket, View1<G> const& gradients,
                char const* slot) const;
  /// Averages of what this worker owns in a bucket and others hold as well. Where averages go to
  /// holders, also into the gradients of the contributors whose memory this process addresses.
  void average(ExecSpace const& exec, std::size_t bucket, View1<G> const& gradients,
               char const* slot) const;
  /// Stores what stands in place of the node_sums of a bucket in the gradients of those
  /// contributors.
  void hand_back(ExecSpace const& exec, std::size_t bucket, View1<G> const& gradients) const;

 private:
  struct Pieces {
    std::size_t begin = 0, end = 0;
  };
  struct Bucket {
    Pieces node_sums, averages;
  };

  auto pieces(Pieces const& range) const {
    return Kokkos::subview(m_pieces, Kokkos::pair(range.begin, range.end));
  }
  void add(ExecSpace const& exec, Pieces const& range, View1<G> const& gradients, char const* slot,
           bool hand_back) const;

  bool m_bf16_wire;
  bool m_hands_back;
  std::vector<Bucket> m_buckets;
  View1<kernels::SumPeer<G>>
      m_peers;  ///< by worker; null where not addressed; without elements where none is
  View1<kernels::SumTerm> m_terms;
  View1<kernels::SumPiece> m_pieces;
};

/// Bytes of the lists of one bucket.
index_t sum_list_bytes(BucketSchedule const& bucket);

}  // namespace sdp
