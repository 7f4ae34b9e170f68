// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/team.hpp"
#include "kernels/update/blocks.hpp"

namespace sdp::kernels {

namespace Details {
template <bool Mixed, class Exec, class Blocks, class Skip, class Value, class Master, class Weight>
void statistics(Exec const& exec, Blocks const& blocks, double keep, Skip const& skip,
                Value const& value, Master const& master, Weight const& weight) {
  using P = value_t<Master>;
  static_assert(std::is_same_v<value_t<Blocks>, UpdateBlock>,
                "statistics_update: blocks must be of UpdateBlock");
  if (blocks.extent(0) == 0) return;
  Kokkos::parallel_for(
      "sdp::kernels::statistics_update", row_policy(exec, static_cast<index_t>(blocks.extent(0))),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        if (skip() != 0) return;
        const UpdateBlock block = blocks(team.league_rank());
        const double share = keep;
        auto const* from = value.data() + block.gradient;
        auto* p = master.data() + (Mixed ? block.moment : block.weight);
        auto* w = weight.data() + block.weight;
        row_for(team, block.count, [=](index_t i) {
          const double old = share == 0.0 ? 0.0 : share * static_cast<double>(p[i]);
          const P p_new = static_cast<P>(old + static_cast<double>(from[i]));
          p[i] = p_new;
          if constexpr (Mixed) w[i] = static_cast<value_t<Weight>>(p_new);
        });
      });
}
}  // namespace Details

/// weight = keep * weight + value for the elements of the blocks, in double and rounded once: what
/// the batches of an update contribute to a running average, which travels with the gradients,
/// joins the stored one. With keep = 0 the weight is overwritten whatever it held. Nothing happens
/// where skip() is not zero.
///
/// blocks (b) UpdateBlock, of which `gradient`, `weight` and `count` are used; skip a rank-0 View
/// of int; value (n), weight (w), the latter updated in place where a block covers it.
template <ExecutionSpace Exec, RowMajor<1> Blocks, ViewOfRank<0> Skip, RowMajor<1> Value,
          RowMajor<1> Weight>
void statistics_update(Exec const& exec, Blocks const& blocks, double keep, Skip const& skip,
                       Value const& value, Weight const& weight) {
  Details::statistics<false>(exec, blocks, keep, skip, value, weight, weight);
}

/// The same on master weights (m), laid out by the blocks' `moment`; weight (w) becomes the master
/// weights rounded once to its own type and is not read.
template <ExecutionSpace Exec, RowMajor<1> Blocks, ViewOfRank<0> Skip, RowMajor<1> Value,
          RowMajor<1> Master, RowMajor<1> Weight>
void statistics_update(Exec const& exec, Blocks const& blocks, double keep, Skip const& skip,
                       Value const& value, Master const& master, Weight const& weight) {
  Details::statistics<true>(exec, blocks, keep, skip, value, master, weight);
}

}  // namespace sdp::kernels
