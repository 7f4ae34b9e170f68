// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/group.hpp"

// Embedding look-up. N tokens, V rows of the table (vocabulary), D columns (hidden size).

namespace sdp::kernels {

namespace Details {
template <class Tokens, class Rows, class W>
void check_embedding(char const* name, Tokens const& tokens, char const* rows_name,
                     Rows const& rows, char const* weight_name, W const& weight) {
  static_assert(std::is_same_v<value_t<Tokens>, std::int32_t>, "embedding: tokens must be int32");
  require_extent(name, rows_name, rows, 0, static_cast<index_t>(tokens.extent(0)));
  require_extent(name, rows_name, rows, 1, static_cast<index_t>(weight.extent(1)));
  require(tokens.extent(0) <= 0x7fffffffu, name, "at most 2^31 - 1 tokens in one call");
  require(tokens.extent(0) == 0 || weight.extent(0) > 0, name,
          std::string(weight_name) + " must have at least one row");
}

/// d_weight += d_out by tokens in order. A tile of columns belongs to one thread, which meets every
/// token: no workspace, and as many bytes moved as the sum needs. For host backends.
template <class Exec, class Tokens, class DOut, class DW>
void embedding_backward_by_columns(Exec const& exec, Tokens const& tokens, DOut const& d_out,
                                   DW const& d_weight) {
  using T = value_t<DW>;
  using A = accum_t<T>;
  const auto count = static_cast<index_t>(tokens.extent(0));
  const auto vocabulary = static_cast<index_t>(d_weight.extent(0));
  const auto cols = static_cast<index_t>(d_weight.extent(1));
  const index_t threads = exec.concurrency();
  const index_t share = (cols + threads - 1) / threads;
  const index_t tile = (share + 15) / 16 * 16;  // whole cache lines
  Kokkos::parallel_for(
      "sdp::kernels::embedding_backward", row_policy(exec, (cols + tile - 1) / tile),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t begin = team.league_rank() * tile;
        const index_t width = begin + tile < cols ? tile : cols - begin;
        for (index_t n = 0; n < count; ++n) {
          const index_t token = tokens(n);
          if (token < 0 || token >= vocabulary) continue;
          auto const* from = &d_out(n, begin);
          auto* to = &d_weight(token, begin);
          row_for(team, width, [=](index_t j) {
            to[j] = static_cast<T>(static_cast<A>(to[j]) + static_cast<A>(from[j]));
          });
        }
      });
}

/// order = the positions of the tokens, sorted by (token, position): position n goes to the number
/// of positions that come before it. N^2 integer comparisons in one launch without atomics, which
/// for the tokens of a micro-batch is far below the cost of one layer.
template <class Exec, class Tokens, class Order>
void embedding_order(Exec const& exec, Tokens const& tokens, Order const& order) {
  const auto count = static_cast<index_t>(tokens.extent(0));
  Kokkos::parallel_for(
      "sdp::kernels::embedding_order", row_policy(exec, count),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const int n = team.league_rank();
        auto const* all = &tokens(0);
        const std::int32_t token = all[n];
        const int rank = row_sum<int>(team, count, [=](index_t m) {
          return static_cast<int>(all[m] < token) | (static_cast<int>(all[m] == token) & (m < n));
        });
        if (team.team_rank() == 0) order(rank) = n;
      });
}

/// d_weight += d_out, one team for each run of equal tokens in `order`; the run is summed in token
/// order in a register and added once. For devices.
template <class Exec, class Tokens, class DOut, class Order, class DW>
void embedding_backward_by_runs(Exec const& exec, Tokens const& tokens, DOut const& d_out,
                                Order const& order, DW const& d_weight) {
  using A = accum_t<value_t<DW>>;
  constexpr int k_count = k_group<Exec, value_t<DOut>>;
  const auto count = static_cast<index_t>(tokens.extent(0));
  const auto vocabulary = static_cast<index_t>(d_weight.extent(0));
  const auto cols = static_cast<index_t>(d_weight.extent(1));
  embedding_order(exec, tokens, order);
  Kokkos::parallel_for(
      "sdp::kernels::embedding_backward", row_policy(exec, count),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t first = team.league_rank();
        const index_t token = tokens(order(first));
        if (token < 0 || token >= vocabulary) return;
        if (first > 0 && tokens(order(first - 1)) == token) return;
        index_t last = first + 1;
        while (last < count && tokens(order(last)) == token) ++last;
        auto* to = &d_weight(token, 0);
        group_for<k_count>(team, cols, [=](index_t j, auto values) {
          constexpr int k_values = decltype(values)();
          Group<A, k_values> sum{};
          for (index_t r = first; r < last; ++r) {
            const auto term = load_group<A>(&d_out(order(r), j), values);
            for (int i = 0; i < values; ++i) sum[i] += term[i];
          }
          auto total = load_group<A>(to + j, values);
          for (int i = 0; i < values; ++i) total[i] += sum[i];
          store_group(total, to + j);
        });
      });
}
}  // namespace Details

/// out[n] = weight[tokens[n]].
///
/// tokens (N) int32, weight (V,D), out (N,D), overwritten. A token outside [0,V) gives a row of
/// NaN, so that the step is found non-finite. Throws ShapeError when the extents do not fit.
template <ExecutionSpace Exec, RowMajor<1> Tokens, RowMajor<2> W, RowMajor<2> Out>
void embedding_forward(Exec const& exec, Tokens const& tokens, W const& weight, Out const& out) {
  constexpr char const* k_name = "sdp::kernels::embedding_forward";
  using T = value_t<Out>;
  using A = accum_t<T>;
  Details::check_embedding(k_name, tokens, "out", out, "weight", weight);
  const auto rows = static_cast<index_t>(out.extent(0));
  const auto cols = static_cast<index_t>(out.extent(1));
  const auto vocabulary = static_cast<index_t>(weight.extent(0));
  const T nan = static_cast<T>(std::numeric_limits<A>::quiet_NaN());
  if (rows == 0 || cols == 0) return;
  Kokkos::parallel_for(
      k_name, row_policy(exec, rows), KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const int n = team.league_rank();
        const index_t token = tokens(n);
        auto* to = &out(n, 0);
        if (token < 0 || token >= vocabulary) {
          row_for(team, cols, [=](index_t j) { to[j] = nan; });
          return;
        }
        auto const* from = &weight(token, 0);
        group_for<k_group<Exec, T>>(team, cols, [=](index_t first, auto count) {
          store_group(load_group<A>(from + first, count), to + first);
        });
      });
}

/// Elements of the `order` workspace of embedding_backward: N on devices, 0 on host backends.
template <ExecutionSpace Exec>
index_t embedding_backward_workspace(index_t tokens) {
  return k_is_host<Exec> ? 0 : tokens;
}

/// d_weight[v] += sum of d_out[n] over the n with tokens[n] = v, in the order of n.
///
/// tokens (N) int32, d_out (N,D), d_weight (V,D), accumulated. `order` is an int32 workspace of at
/// least embedding_backward_workspace<Exec>(N) elements. Tokens outside [0,V) add nothing. No
/// atomics: the same bits every time. Throws ShapeError when the extents do not fit.
template <ExecutionSpace Exec, RowMajor<1> Tokens, RowMajor<2> DOut, RowMajor<1> Order,
          RowMajor<2> DW>
void embedding_backward(Exec const& exec, Tokens const& tokens, DOut const& d_out,
                        [[maybe_unused]] Order const& order, DW const& d_weight) {
  constexpr char const* k_name = "sdp::kernels::embedding_backward";
  static_assert(std::is_same_v<value_t<Order>, std::int32_t>,
                "embedding_backward: order must be int32");
  Details::check_embedding(k_name, tokens, "d_out", d_out, "d_weight", d_weight);
  const auto count = static_cast<index_t>(tokens.extent(0));
  require(
      static_cast<index_t>(order.extent(0)) >= embedding_backward_workspace<Exec>(count), k_name,
      "order " + shape_string(order) + " is shorter than the " + std::to_string(count) + " tokens");
  if (count == 0 || d_weight.extent(1) == 0) return;
  if constexpr (k_is_host<Exec>)
    Details::embedding_backward_by_columns(exec, tokens, d_out, d_weight);
  else
    Details::embedding_backward_by_runs(exec, tokens, d_out, order, d_weight);
}

}  // namespace sdp::kernels
