// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/team.hpp"

// Bias of a linear map. N rows, O columns. Each throws ShapeError when the extents do not fit.

namespace sdp::kernels {

/// out(n,:) += bias for every row. bias (O), out (N,O).
template <ExecutionSpace Exec, RowMajor<1> Bias, RowMajor<2> Out>
void bias_forward(Exec const& exec, Bias const& bias, Out const& out) {
  constexpr char const* k_name = "sdp::kernels::bias_forward";
  using T = value_t<Out>;
  using A = accum_t<T>;
  const auto cols = static_cast<index_t>(out.extent(1));
  require_extent(k_name, "bias", bias, 0, cols);
  Kokkos::parallel_for(
      k_name, row_policy(exec, static_cast<index_t>(out.extent(0))),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        auto* row = out.data() + team.league_rank() * cols;
        auto const* add = bias.data();
        row_for(team, cols, [=](index_t j) {
          row[j] = static_cast<T>(static_cast<A>(row[j]) + static_cast<A>(add[j]));
        });
      });
}

/// d_bias += sum over the rows of d_out, in row order on host cores; on devices in an order that
/// depends on N alone. d_out (N,O), d_bias (O). A team per column: meant for the few columns of a
/// classifier.
template <ExecutionSpace Exec, RowMajor<2> DOut, RowMajor<1> DBias>
void bias_backward(Exec const& exec, DOut const& d_out, DBias const& d_bias) {
  constexpr char const* k_name = "sdp::kernels::bias_backward";
  using T = value_t<DBias>;
  using A = accum_t<T>;
  const auto rows = static_cast<index_t>(d_out.extent(0));
  const auto cols = static_cast<index_t>(d_out.extent(1));
  require_extent(k_name, "d_bias", d_bias, 0, cols);
  Kokkos::parallel_for(
      k_name, row_policy(exec, cols), KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t count = rows, stride = cols, j = team.league_rank();
        auto const* column = d_out.data() + j;
        A sum = A(0);
        if constexpr (k_is_host<Exec>)
          for (index_t n = 0; n < count; ++n) sum += static_cast<A>(column[n * stride]);
        else
          sum = row_sum<A>(team, count,
                           [=](index_t n) { return static_cast<A>(column[n * stride]); });
        if (team.team_rank() == 0) d_bias(j) = static_cast<T>(static_cast<A>(d_bias(j)) + sum);
      });
}

}  // namespace sdp::kernels
