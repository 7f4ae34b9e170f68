// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/group.hpp"
#include "kernels/nn/embedding_order.hpp"

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

/// Positions in the sorted order whose rows one team adds.
inline constexpr index_t k_embedding_chunk = 64;

inline index_t embedding_chunks(index_t tokens) {
  return (tokens + k_embedding_chunk - 1) / k_embedding_chunk;
}

/// Tokens in sorted order.
struct SortedTokens {
  std::int32_t const* tokens;
  std::int32_t const* order;

  KOKKOS_INLINE_FUNCTION index_t operator[](index_t place) const { return tokens[order[place]]; }

  /// First place in (begin, end] that does not continue the run of equal tokens at `begin`: in
  /// growing steps, then in shrinking ones.
  KOKKOS_INLINE_FUNCTION index_t run_end(index_t begin, index_t end) const {
    const index_t token = (*this)[begin];
    index_t last = begin, step = 1;
    for (; last + step < end && (*this)[last + step] == token; step *= 2) last += step;
    for (step /= 2; step > 0; step /= 2)
      if (last + step < end && (*this)[last + step] == token) last += step;
    return last + 1;
  }
};

/// sum += rows order[begin], ..., order[end - 1] of d_out at columns from `from` on.
template <class DOut, class A, int N>
KOKKOS_INLINE_FUNCTION void add_rows(DOut const* from, index_t stride, std::int32_t const* order,
                                     index_t begin, index_t end, Group<A, N>& sum) {
  for (index_t r = begin; r < end; ++r) {
    const auto term = load_group<A>(from + order[r] * stride, FixedCount<N>());
    for (int i = 0; i < N; ++i) sum[i] += term[i];
  }
}

/// partials(c) = the sum of the rows at the head of chunk c of the sorted order that continue a run
/// of the chunk before, one team for each chunk; other rows of partials are not touched.
template <class Exec, class Tokens, class DOut, class Order, class Partials>
void embedding_partials(Exec const& exec, Tokens const& tokens, DOut const& d_out,
                        index_t vocabulary, Order const& order, Partials const& partials) {
  using A = value_t<Partials>;
  constexpr int k_count = k_group<Exec, value_t<DOut>>;
  const auto count = static_cast<index_t>(tokens.extent(0));
  const auto cols = static_cast<index_t>(d_out.extent(1));
  const auto stride = static_cast<index_t>(d_out.stride(0));
  Kokkos::parallel_for(
      "sdp::kernels::embedding_partials",
      row_policy(exec, embedding_chunks(count), group_count<k_count>(cols)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t chunk = team.league_rank();
        const index_t begin = chunk * k_embedding_chunk;
        const index_t end = begin + k_embedding_chunk < count ? begin + k_embedding_chunk : count;
        std::int32_t const* const places = order.data();
        const SortedTokens sorted{tokens.data(), places};
        const index_t token = sorted[begin];
        if (chunk == 0 || sorted[begin - 1] != token) return;
        if (token < 0 || token >= vocabulary) return;
        const index_t last = sorted.run_end(begin, end);
        auto const* from = d_out.data();
        auto* to = &partials(chunk, 0);
        const index_t row = stride;
        group_for<k_count>(team, cols, [=](index_t j, auto values) {
          constexpr int k_values = decltype(values)();
          Group<A, k_values> sum{};
          add_rows(from + j, row, places, begin, last, sum);
          store_group(sum, to + j);
        });
      });
}

/// d_weight += d_out, one team for each run of equal tokens in sorted order: its rows up to the end
/// of the chunk it begins in, the partials of further chunks, and then the weight. For devices.
template <class Exec, class Tokens, class DOut, class Order, class Partials, class DW>
void embedding_backward_by_runs(Exec const& exec, Tokens const& tokens, DOut const& d_out,
                                Order const& order, Partials const& partials, DW const& d_weight) {
  using A = value_t<Partials>;
  constexpr int k_count = k_group<Exec, value_t<DOut>>;
  const auto count = static_cast<index_t>(tokens.extent(0));
  const auto vocabulary = static_cast<index_t>(d_weight.extent(0));
  const auto cols = static_cast<index_t>(d_weight.extent(1));
  const auto stride = static_cast<index_t>(d_out.stride(0));
  embedding_order(exec, tokens, vocabulary, order);
  embedding_partials(exec, tokens, d_out, vocabulary, order, partials);
  Kokkos::parallel_for(
      "sdp::kernels::embedding_backward", row_policy(exec, count, group_count<k_count>(cols)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t begin = team.league_rank();
        std::int32_t const* const places = order.data();
        const SortedTokens sorted{tokens.data(), places};
        const index_t token = sorted[begin];
        if (token < 0 || token >= vocabulary) return;
        if (begin > 0 && sorted[begin - 1] == token) return;
        const index_t last = sorted.run_end(begin, count);
        const index_t next = begin / k_embedding_chunk + 1;
        const index_t own = next * k_embedding_chunk < last ? next * k_embedding_chunk : last;
        const index_t chunks = (last + k_embedding_chunk - 1) / k_embedding_chunk;
        auto const* from = d_out.data();
        A const* const partial = partials.data();
        const auto partial_row = static_cast<index_t>(partials.stride(0));
        auto* to = &d_weight(token, 0);
        const index_t row = stride;
        group_for<k_count>(team, cols, [=](index_t j, auto values) {
          constexpr int k_values = decltype(values)();
          Group<A, k_values> sum{};
          add_rows(from + j, row, places, begin, own, sum);
          for (index_t c = next; c < chunks; ++c) {
            const auto term = load_group<A>(partial + c * partial_row + j, values);
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
      k_name, row_policy(exec, rows, group_count<k_group<Exec, T>>(cols)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
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

/// Elements of the `order` workspace of embedding_backward: 0 on host backends.
template <ExecutionSpace Exec>
index_t embedding_backward_workspace(index_t tokens) {
  return k_is_host<Exec> ? 0 : Details::embedding_order_size(tokens);
}

/// Rows of the `partials` workspace of embedding_backward: 0 on host backends.
template <ExecutionSpace Exec>
index_t embedding_backward_chunks(index_t tokens) {
  return k_is_host<Exec> ? 0 : Details::embedding_chunks(tokens);
}

/// d_weight[v] += sum of d_out[n] over the n with tokens[n] = v, in the order of n.
///
/// tokens (N) int32, d_out (N,D), d_weight (V,D), accumulated. Workspaces, overwritten: `order`,
/// int32, at least embedding_backward_workspace<Exec>(N) elements, and `partials`
/// (embedding_backward_chunks<Exec>(N) or more, D) in accum_t of d_weight. Tokens outside [0,V) add
/// nothing. No atomics: the same bits every time. Where Exec is a device, the tokens sorted by
/// (token, n) are cut into chunks of 64; the rows of a token are summed in order within a chunk and
/// then chunk by chunk. Throws ShapeError when the extents do not fit.
template <ExecutionSpace Exec, RowMajor<1> Tokens, RowMajor<2> DOut, RowMajor<1> Order,
          RowMajor<2> Partials, RowMajor<2> DW>
void embedding_backward(Exec const& exec, Tokens const& tokens, DOut const& d_out,
                        [[maybe_unused]] Order const& order,
                        [[maybe_unused]] Partials const& partials, DW const& d_weight) {
  constexpr char const* k_name = "sdp::kernels::embedding_backward";
  static_assert(std::is_same_v<value_t<Order>, std::int32_t>,
                "embedding_backward: order must be int32");
  static_assert(std::is_same_v<value_t<Partials>, accum_t<value_t<DW>>>,
                "embedding_backward: partials must be in accum_t of d_weight");
  Details::check_embedding(k_name, tokens, "d_out", d_out, "d_weight", d_weight);
  const auto count = static_cast<index_t>(tokens.extent(0));
  const auto chunks = embedding_backward_chunks<Exec>(count);
  require(
      static_cast<index_t>(order.extent(0)) >= embedding_backward_workspace<Exec>(count), k_name,
      "order " + shape_string(order) + " is too short for " + std::to_string(count) + " tokens");
  require(static_cast<index_t>(partials.extent(0)) >= chunks, k_name,
          "partials " + shape_string(partials) + " has fewer rows than " + std::to_string(chunks));
  if (chunks > 0)
    require_extent(k_name, "partials", partials, 1, static_cast<index_t>(d_weight.extent(1)));
  if (count == 0 || d_weight.extent(1) == 0) return;
  if constexpr (k_is_host<Exec>)
    Details::embedding_backward_by_columns(exec, tokens, d_out, d_weight);
  else
    Details::embedding_backward_by_runs(exec, tokens, d_out, order, partials, d_weight);
}

}  // namespace sdp::kernels
