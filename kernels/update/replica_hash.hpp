// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/team.hpp"

namespace sdp::kernels {

/// Elements [offset, offset + count) of a flat buffer, which are the elements from `logical` on of
/// a model, and the hash that they count towards.
struct HashSpan {
  index_t offset;
  index_t count;
  index_t logical;
  index_t slot;
};

namespace Details {
/// Finaliser of SplitMix64 (Steele, Lea, Flood 2014).
KOKKOS_INLINE_FUNCTION std::uint64_t mix64(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
}  // namespace Details

/// hashes[span.slot] += sum of mix(bits(x[i]) + mix(logical index of i)) modulo 2^64 over the
/// elements of each span.
///
/// spans (S): View of HashSpan inside x; x (n) float or double; hashes std::uint64_t, accumulated.
/// A sum of integers: its bits depend neither on order nor on how elements are divided into spans,
/// only on values and logical positions. Any single changed bit changes the hash.
template <ExecutionSpace Exec, RowMajor<1> Spans, RowMajor<1> X, RowMajor<1> Hashes>
void replica_hash(Exec const& exec, Spans const& spans, X const& x, Hashes const& hashes) {
  static_assert(std::is_same_v<value_t<Spans>, HashSpan>, "replica_hash: spans must be HashSpan");
  static_assert(std::is_same_v<value_t<Hashes>, std::uint64_t>,
                "replica_hash: hashes must be std::uint64_t");
  if (spans.extent(0) == 0) return;
  Kokkos::parallel_for(
      "sdp::kernels::replica_hash", row_policy(exec, static_cast<index_t>(spans.extent(0))),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        using T = std::remove_const_t<value_t<X>>;
        using Bits =
            std::conditional_t<sizeof(T) == 8, std::uint64_t,
                               std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint16_t>>;
        const HashSpan span = spans(team.league_rank());
        auto const* values = x.data() + span.offset;
        const std::uint64_t sum = row_sum<std::uint64_t>(team, span.count, [=](index_t i) {
          Bits bits;
          memcpy(&bits, &values[i], sizeof(bits));
          return Details::mix64(bits +
                                Details::mix64(static_cast<std::uint64_t>(span.logical + i)));
        });
        if (team.team_rank() == 0) Kokkos::atomic_add(&hashes(span.slot), sum);
      });
}

}  // namespace sdp::kernels
