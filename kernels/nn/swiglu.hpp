// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/group.hpp"
#include "kernels/core/math.hpp"

// The gated activation of LLaMA: Shazeer, arXiv 2002.05202. N rows (tokens), F columns
// (intermediate size). gate_up (N,2F) holds the gate in columns [0,F) and the up projection in
// [F,2F).

namespace sdp::kernels {

/// out = silu(gate) * up, silu(g) = g / (1 + exp(-g)).
///
/// gate_up (N,2F), out (N,F); out is overwritten and may not alias gate_up. Throws ShapeError when
/// the extents do not fit.
template <ExecutionSpace Exec, RowMajor<2> GateUp, RowMajor<2> Out>
void swiglu_forward(Exec const& exec, GateUp const& gate_up, Out const& out) {
  constexpr char const* k_name = "sdp::kernels::swiglu_forward";
  using T = value_t<Out>;
  using A = accum_t<T>;
  const auto rows = static_cast<index_t>(out.extent(0));
  const auto cols = static_cast<index_t>(out.extent(1));
  require_extent(k_name, "gate_up", gate_up, 0, rows);
  require_extent(k_name, "gate_up", gate_up, 1, 2 * cols);
  if (rows == 0 || cols == 0) return;
  Kokkos::parallel_for(
      k_name, row_policy(exec, rows, group_count<k_group<Exec, T>>(cols)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const int row = team.league_rank();
        auto const* gate = &gate_up(row, 0);
        auto const* up = gate + cols;
        auto* out_row = &out(row, 0);
        group_for<k_group<Exec, T>>(team, cols, [=](index_t begin, auto count) {
          constexpr int k_values = decltype(count)();
          const auto g = load_group<A>(gate + begin, count);
          const auto u = load_group<A>(up + begin, count);
          Group<A, k_values> act;
          for (int j = 0; j < count; ++j) {
            const A sigmoid = A(1) / (A(1) + vexp(-g[j]));
            act[j] = g[j] * sigmoid * u[j];
          }
          store_group(act, out_row + begin);
        });
      });
}

/// Gradient of swiglu_forward and its recomputed output in one pass, both in place:
///   gate_up becomes (d_act * up * s * (1 + gate * (1 - s)), d_act * silu(gate)), s = sigmoid(gate)
///   d_act becomes silu(gate) * up, which the weight gradient of the down projection needs
///
/// gate_up (N,2F) and d_act (N,F) are read and overwritten, and may not alias each other. Throws
/// ShapeError when the extents do not fit.
template <ExecutionSpace Exec, RowMajor<2> GateUp, RowMajor<2> DAct>
void swiglu_backward(Exec const& exec, GateUp const& gate_up, DAct const& d_act) {
  constexpr char const* k_name = "sdp::kernels::swiglu_backward";
  using T = value_t<DAct>;
  using A = accum_t<T>;
  const auto rows = static_cast<index_t>(d_act.extent(0));
  const auto cols = static_cast<index_t>(d_act.extent(1));
  require_extent(k_name, "gate_up", gate_up, 0, rows);
  require_extent(k_name, "gate_up", gate_up, 1, 2 * cols);
  if (rows == 0 || cols == 0) return;
  Kokkos::parallel_for(
      k_name, row_policy(exec, rows, group_count<k_group<Exec, T>>(cols)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const int row = team.league_rank();
        auto* gate = &gate_up(row, 0);
        auto* up = gate + cols;
        auto* act = &d_act(row, 0);
        group_for<k_group<Exec, T>>(team, cols, [=](index_t begin, auto count) {
          auto g = load_group<A>(gate + begin, count);
          auto u = load_group<A>(up + begin, count);
          auto d = load_group<A>(act + begin, count);
          for (int j = 0; j < count; ++j) {
            const A sigmoid = A(1) / (A(1) + vexp(-g[j]));
            const A silu = g[j] * sigmoid, value = u[j], slope = d[j];
            g[j] = slope * value * (sigmoid + silu * (A(1) - sigmoid));
            u[j] = slope * silu;
            d[j] = silu * value;
          }
          store_group(g, gate + begin);
          store_group(u, up + begin);
          store_group(d, act + begin);
        });
      });
}

}  // namespace sdp::kernels
