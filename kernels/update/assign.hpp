// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/team.hpp"
#include "kernels/update/blocks.hpp"

namespace sdp::kernels {

/// weight = value for the elements of the blocks: how an averaged running statistic, which travels
/// with the gradients, replaces the stored one. Nothing happens where skip() is not zero.
///
/// blocks (b) UpdateBlock, of which `gradient`, `weight` and `count` are used; skip a rank-0 View
/// of int; value (n), weight (w), the latter overwritten where a block covers it.
template <ExecutionSpace Exec, RowMajor<1> Blocks, ViewOfRank<0> Skip, RowMajor<1> Value,
          RowMajor<1> Weight>
void assign_update(Exec const& exec, Blocks const& blocks, Skip const& skip, Value const& value,
                   Weight const& weight) {
  static_assert(std::is_same_v<value_t<Blocks>, UpdateBlock>,
                "assign_update: blocks must be of UpdateBlock");
  if (blocks.extent(0) == 0) return;
  Kokkos::parallel_for(
      "sdp::kernels::assign_update", row_policy(exec, static_cast<index_t>(blocks.extent(0))),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        if (skip() != 0) return;
        const UpdateBlock block = blocks(team.league_rank());
        auto const* from = value.data() + block.gradient;
        auto* to = weight.data() + block.weight;
        row_for(team, block.count,
                [=](index_t i) { to[i] = static_cast<value_t<Weight>>(from[i]); });
      });
}

}  // namespace sdp::kernels
