// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/group.hpp"

// Root mean square normalisation: Zhang and Sennrich, arXiv 1910.07467; rounding order of the
// Hugging Face LlamaRMSNorm. N rows (tokens), D columns (hidden size). Statistics are taken in
// accum_t, one pass over memory per kernel: a row stays in the cache between its reduction and its
// use.

namespace sdp::kernels {

namespace Details {
inline constexpr index_t k_rms_norm_rows_per_chunk = 32;
/// Partial sums of chunks that a thread of a device adds.
inline constexpr index_t k_rms_norm_chunks_per_sum = 64;

/// out = T(x * scale) * w for a row of n columns.
template <int N, class Team, class X, class A, class W, class T>
KOKKOS_INLINE_FUNCTION void rms_norm_scale(Team const& team, index_t n, X const* x, A scale,
                                           W const* w, T* out) {
  group_for<N>(team, n, [=](index_t begin, auto count) {
    auto values = load_group<A>(x + begin, count);
    const auto weights = load_group<A>(w + begin, count);
    for (int j = 0; j < count; ++j)
      values[j] = static_cast<A>(static_cast<T>(values[j] * scale)) * weights[j];
    store_group(values, out + begin);
  });
}
}  // namespace Details

/// out = T(x * rstd) * weight, rstd = 1 / sqrt(mean(x^2) + eps).
///
/// x (N,D), weight (D), out (N,D) of storage type T, rstd (N) in accum_t<T>; out and rstd are
/// overwritten. out may alias x. Throws ShapeError when the extents do not fit.
template <ExecutionSpace Exec, RowMajor<2> X, RowMajor<1> W, RowMajor<2> Out, RowMajor<1> Rstd>
void rms_norm_forward(Exec const& exec, X const& x, W const& weight, double eps, Out const& out,
                      Rstd const& rstd) {
  constexpr char const* k_name = "sdp::kernels::rms_norm_forward";
  using T = value_t<Out>;
  using A = accum_t<T>;
  constexpr int k_count = k_group<Exec, T>;
  const auto rows = static_cast<index_t>(x.extent(0));
  const auto cols = static_cast<index_t>(x.extent(1));
  require_extent(k_name, "weight", weight, 0, cols);
  require_same_shape(k_name, "x", x, "out", out);
  require_extent(k_name, "rstd", rstd, 0, rows);
  if (rows == 0 || cols == 0) return;
  Kokkos::parallel_for(
      k_name, row_policy(exec, rows, group_count<k_count>(cols)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const int row = team.league_rank();
        auto const* x_row = &x(row, 0);
        auto const* w = &weight(0);
        auto* out_row = &out(row, 0);
        const A sum = group_sum<A, k_count>(team, cols, [=](index_t begin, auto count) {
          const auto values = load_group<A>(x_row + begin, count);
          A squares = values[0] * values[0];
          for (int j = 1; j < count; ++j) squares += values[j] * values[j];
          return squares;
        });
        const A scale = A(1) / std::sqrt(sum / static_cast<A>(cols) + static_cast<A>(eps));
        if (team.team_rank() == 0) rstd(row) = scale;
        Details::rms_norm_scale<k_count>(team, cols, x_row, scale, w, out_row);
      });
}

/// sum = x + branch and out = rms_norm(sum) in one pass: the residual add of a transformer block
/// and the norm that follows it.
///
/// x, branch, sum, out (N,D), weight (D), rstd (N) in accum_t; sum, out and rstd are overwritten.
/// sum may alias x or branch; out may alias none of them. The norm sees the sum as it is stored.
/// Throws ShapeError when the extents do not fit.
template <ExecutionSpace Exec, RowMajor<2> X, RowMajor<2> Branch, RowMajor<1> W, RowMajor<2> Sum,
          RowMajor<2> Out, RowMajor<1> Rstd>
void add_rms_norm_forward(Exec const& exec, X const& x, Branch const& branch, W const& weight,
                          double eps, Sum const& sum, Out const& out, Rstd const& rstd) {
  constexpr char const* k_name = "sdp::kernels::add_rms_norm_forward";
  using T = value_t<Sum>;
  using A = accum_t<T>;
  constexpr int k_count = k_group<Exec, T>;
  const auto rows = static_cast<index_t>(x.extent(0));
  const auto cols = static_cast<index_t>(x.extent(1));
  require_same_shape(k_name, "x", x, "branch", branch);
  require_same_shape(k_name, "x", x, "sum", sum);
  require_same_shape(k_name, "x", x, "out", out);
  require_extent(k_name, "weight", weight, 0, cols);
  require_extent(k_name, "rstd", rstd, 0, rows);
  if (rows == 0 || cols == 0) return;
  Kokkos::parallel_for(
      k_name, row_policy(exec, rows, group_count<k_count>(cols)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const int row = team.league_rank();
        auto const* x_row = &x(row, 0);
        auto const* branch_row = &branch(row, 0);
        auto const* w = &weight(0);
        auto* sum_row = &sum(row, 0);
        auto* out_row = &out(row, 0);
        const A total = group_sum<A, k_count>(team, cols, [=](index_t begin, auto count) {
          auto values = load_group<A>(x_row + begin, count);
          const auto added = load_group<A>(branch_row + begin, count);
          A squares = A(0);
          for (int j = 0; j < count; ++j) {
            values[j] = static_cast<A>(static_cast<T>(values[j] + added[j]));
            squares += values[j] * values[j];
          }
          store_group(values, sum_row + begin);
          return squares;
        });
        const A scale = A(1) / std::sqrt(total / static_cast<A>(cols) + static_cast<A>(eps));
        if (team.team_rank() == 0) rstd(row) = scale;
        Details::rms_norm_scale<k_count>(team, cols, sum_row, scale, w, out_row);
      });
}

/// out = T(x * rstd) * weight with a saved rstd: the same bits as rms_norm_forward wrote.
///
/// x, out (N,D), rstd (N), weight (D); out is overwritten and may alias x. Throws ShapeError when
/// the extents do not fit.
template <ExecutionSpace Exec, RowMajor<2> X, RowMajor<1> Rstd, RowMajor<1> W, RowMajor<2> Out>
void rms_norm_apply(Exec const& exec, X const& x, Rstd const& rstd, W const& weight,
                    Out const& out) {
  constexpr char const* k_name = "sdp::kernels::rms_norm_apply";
  using T = value_t<Out>;
  using A = accum_t<T>;
  constexpr int k_count = k_group<Exec, T>;
  const auto rows = static_cast<index_t>(x.extent(0));
  const auto cols = static_cast<index_t>(x.extent(1));
  require_same_shape(k_name, "x", x, "out", out);
  require_extent(k_name, "weight", weight, 0, cols);
  require_extent(k_name, "rstd", rstd, 0, rows);
  if (rows == 0 || cols == 0) return;
  Kokkos::parallel_for(
      k_name, row_policy(exec, rows, group_count<k_count>(cols)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const int row = team.league_rank();
        auto const* x_row = &x(row, 0);
        auto const* w = &weight(0);
        auto* out_row = &out(row, 0);
        const A scale = static_cast<A>(rstd(row));
        Details::rms_norm_scale<k_count>(team, cols, x_row, scale, w, out_row);
      });
}

/// Rows of the `partials` workspace of the backward kernels: a function of N alone, so that the
/// order in which d_weight is summed does not depend on threads.
inline index_t rms_norm_backward_chunks(index_t rows) {
  constexpr index_t k_rows = Details::k_rms_norm_rows_per_chunk;
  return (rows + k_rows - 1) / k_rows;
}

namespace Details {
/// One pass over the rows: d_x when Input, partials of d_weight when Weight.
template <bool Input, bool Weight, class Exec, class DOut, class X, class Rstd, class W,
          class Partials, class DX>
void rms_norm_backward_rows(char const* name, Exec const& exec, DOut const& d_out, X const& x,
                            Rstd const& rstd, W const& weight, Partials const& partials,
                            DX const& d_x) {
  using A = accum_t<value_t<X>>;
  constexpr int k_count = k_group<Exec, value_t<X>>;
  const auto rows = static_cast<index_t>(x.extent(0));
  const auto cols = static_cast<index_t>(x.extent(1));
  Kokkos::parallel_for(
      name, row_policy(exec, rms_norm_backward_chunks(rows), group_count<k_count>(cols)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const int chunk = team.league_rank();
        const index_t begin = chunk * k_rms_norm_rows_per_chunk;
        const index_t end =
            begin + k_rms_norm_rows_per_chunk < rows ? begin + k_rms_norm_rows_per_chunk : rows;
        // nvcc wants every captured name to be met outside of `if constexpr` first.
        const index_t width = cols;
        auto const* w = weight.data();
        auto* d_x_data = d_x.data();
        auto* partial = partials.data();
        const auto d_x_stride = d_x.stride(0);
        const auto partial_stride = partials.stride(0);
        // A thread always meets the same columns, so no barrier is needed between rows.
        auto* partial_row = partial + chunk * partial_stride;
        if constexpr (Weight)
          group_for<k_count>(team, width, [=](index_t first, auto count) {
            constexpr int k_values = decltype(count)();
            store_group(Group<A, k_values>{}, partial_row + first);
          });
        for (index_t row = begin; row < end; ++row) {
          auto const* x_row = &x(row, 0);
          auto const* d_out_row = &d_out(row, 0);
          auto* d_x_row = d_x_data + row * d_x_stride;
          const A scale = static_cast<A>(rstd(row));
          A factor = A(0);
          if constexpr (Input) {
            const A dot = group_sum<A, k_count>(team, width, [=](index_t first, auto count) {
              const auto d = load_group<A>(d_out_row + first, count);
              const auto scales = load_group<A>(w + first, count);
              const auto values = load_group<A>(x_row + first, count);
              A sum = d[0] * scales[0] * values[0];
              for (int j = 1; j < count; ++j) sum += d[j] * scales[j] * values[j];
              return sum;
            });
            // xhat * mean(w * d_out * xhat), with xhat = x * rstd written out
            factor = dot / static_cast<A>(width) * scale * scale;
          }
          group_for<k_count>(team, width, [=](index_t first, auto count) {
            const auto d = load_group<A>(d_out_row + first, count);
            const auto values = load_group<A>(x_row + first, count);
            if constexpr (Input) {
              const auto scales = load_group<A>(w + first, count);
              auto gradient = load_group<A>(d_x_row + first, count);
              for (int j = 0; j < count; ++j)
                gradient[j] += scale * (d[j] * scales[j] - values[j] * factor);
              store_group(gradient, d_x_row + first);
            }
            if constexpr (Weight) {
              auto sums = load_group<A>(partial_row + first, count);
              for (int j = 0; j < count; ++j) sums[j] += d[j] * (values[j] * scale);
              store_group(sums, partial_row + first);
            }
          });
        }
      });
}

/// d_weight += the partials, chunk by chunk. For host backends.
template <class Exec, class Partials, class DW>
void rms_norm_reduce_by_tiles(Exec const& exec, Partials const& partials, DW const& d_weight,
                              index_t chunks) {
  using A = value_t<Partials>;
  constexpr index_t k_tile = 512;
  const auto cols = static_cast<index_t>(d_weight.extent(0));
  Kokkos::parallel_for(
      "sdp::kernels::rms_norm_backward_reduce", row_policy(exec, (cols + k_tile - 1) / k_tile),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t begin = team.league_rank() * k_tile;
        const index_t count = begin + k_tile < cols ? k_tile : cols - begin;
        auto* d_w = &d_weight(begin);
        auto const* partial = &partials(0, begin);
        const auto stride = partials.stride(0);
        A sums[k_tile];
        for (index_t j = 0; j < count; ++j) sums[j] = A(0);
        for (index_t chunk = 0; chunk < chunks; ++chunk)
          for (index_t j = 0; j < count; ++j) sums[j] += partial[chunk * stride + j];
        for (index_t j = 0; j < count; ++j)
          d_w[j] = static_cast<value_t<DW>>(static_cast<A>(d_w[j]) + sums[j]);
      });
}

/// d_weight += the partials, k_rms_norm_chunks_per_sum of them at a time in order, then as many of
/// these sums, and so on; a sum takes the place of its first term. One thread for each column of
/// each sum. For devices.
template <class Exec, class Partials, class DW>
void rms_norm_reduce_by_columns(Exec const& exec, Partials const& partials, DW const& d_weight,
                                index_t chunks) {
  using A = value_t<Partials>;
  constexpr index_t k_terms = k_rms_norm_chunks_per_sum;
  const auto cols = static_cast<index_t>(d_weight.extent(0));
  const auto width = static_cast<index_t>(partials.stride(0));
  index_t count = chunks, stride = width;  // terms that are left, and from one to the next
  for (; count > k_terms; count = (count + k_terms - 1) / k_terms, stride *= k_terms)
    Kokkos::parallel_for(
        "sdp::kernels::rms_norm_backward_partials",
        element_policy(exec, (count + k_terms - 1) / k_terms * cols), KOKKOS_LAMBDA(index_t i) {
          const index_t first = i / cols * k_terms;
          const index_t terms = first + k_terms < count ? k_terms : count - first;
          A* const term = partials.data() + first * stride + i % cols;
          A sum = A(0);
          for (index_t t = 0; t < terms; ++t) sum += term[t * stride];
          term[0] = sum;
        });
  Kokkos::parallel_for(
      "sdp::kernels::rms_norm_backward_reduce", element_policy(exec, cols),
      KOKKOS_LAMBDA(index_t j) {
        A const* const term = partials.data() + j;
        A sum = A(0);
        for (index_t t = 0; t < count; ++t) sum += term[t * stride];
        d_weight(j) = static_cast<value_t<DW>>(static_cast<A>(d_weight(j)) + sum);
      });
}

template <class Exec, class Partials, class DW>
void rms_norm_backward_reduce(Exec const& exec, Partials const& partials, DW const& d_weight,
                              index_t chunks) {
  if constexpr (k_is_host<Exec>)
    rms_norm_reduce_by_tiles(exec, partials, d_weight, chunks);
  else
    rms_norm_reduce_by_columns(exec, partials, d_weight, chunks);
}

template <class X, class DOut, class Rstd>
void check_rms_norm_backward(char const* name, DOut const& d_out, X const& x, Rstd const& rstd) {
  require_same_shape(name, "x", x, "d_out", d_out);
  require_extent(name, "rstd", rstd, 0, static_cast<index_t>(x.extent(0)));
}

template <class X, class Partials, class DW>
void check_rms_norm_partials(char const* name, X const& x, Partials const& partials,
                             DW const& d_weight) {
  static_assert(std::is_same_v<value_t<Partials>, accum_t<value_t<X>>>,
                "rms_norm_backward: partials must be in accum_t of x");
  const auto cols = static_cast<index_t>(x.extent(1));
  require_extent(name, "d_weight", d_weight, 0, cols);
  require_extent(name, "partials", partials, 0,
                 rms_norm_backward_chunks(static_cast<index_t>(x.extent(0))));
  require_extent(name, "partials", partials, 1, cols);
}
}  // namespace Details

/// Gradient of rms_norm_forward with respect to x and weight:
///   d_x += rstd * (w * d_out - xhat * mean(w * d_out * xhat)),  xhat = x * rstd
///   d_weight += sum over rows of d_out * xhat
///
/// d_out, x, d_x (N,D), rstd (N), weight, d_weight (D): both gradients are accumulated. `partials`
/// (rms_norm_backward_chunks(N), D) in accum_t is a workspace, overwritten. d_x may alias neither x
/// nor d_out. d_weight is summed over 32 rows at a time in row order, then over the chunks in
/// order, which devices take in a tree of 64 branches. Throws ShapeError when the extents do not
/// fit.
template <ExecutionSpace Exec, RowMajor<2> DOut, RowMajor<2> X, RowMajor<1> Rstd, RowMajor<1> W,
          RowMajor<2> Partials, RowMajor<2> DX, RowMajor<1> DW>
void rms_norm_backward(Exec const& exec, DOut const& d_out, X const& x, Rstd const& rstd,
                       W const& weight, Partials const& partials, DX const& d_x,
                       DW const& d_weight) {
  constexpr char const* k_name = "sdp::kernels::rms_norm_backward";
  Details::check_rms_norm_backward(k_name, d_out, x, rstd);
  Details::check_rms_norm_partials(k_name, x, partials, d_weight);
  require_extent(k_name, "weight", weight, 0, static_cast<index_t>(x.extent(1)));
  require_same_shape(k_name, "x", x, "d_x", d_x);
  if (x.extent(0) == 0 || x.extent(1) == 0) return;
  Details::rms_norm_backward_rows<true, true>(k_name, exec, d_out, x, rstd, weight, partials, d_x);
  Details::rms_norm_backward_reduce(exec, partials, d_weight,
                                    rms_norm_backward_chunks(static_cast<index_t>(x.extent(0))));
}

/// The d_x part of rms_norm_backward alone, with the same bits.
template <ExecutionSpace Exec, RowMajor<2> DOut, RowMajor<2> X, RowMajor<1> Rstd, RowMajor<1> W,
          RowMajor<2> DX>
void rms_norm_backward_input(Exec const& exec, DOut const& d_out, X const& x, Rstd const& rstd,
                             W const& weight, DX const& d_x) {
  constexpr char const* k_name = "sdp::kernels::rms_norm_backward_input";
  Details::check_rms_norm_backward(k_name, d_out, x, rstd);
  require_extent(k_name, "weight", weight, 0, static_cast<index_t>(x.extent(1)));
  require_same_shape(k_name, "x", x, "d_x", d_x);
  if (x.extent(0) == 0 || x.extent(1) == 0) return;
  Details::rms_norm_backward_rows<true, false>(k_name, exec, d_out, x, rstd, weight, d_x, d_x);
}

/// The d_weight part of rms_norm_backward alone, with the same bits.
template <ExecutionSpace Exec, RowMajor<2> DOut, RowMajor<2> X, RowMajor<1> Rstd,
          RowMajor<2> Partials, RowMajor<1> DW>
void rms_norm_backward_weight(Exec const& exec, DOut const& d_out, X const& x, Rstd const& rstd,
                              Partials const& partials, DW const& d_weight) {
  constexpr char const* k_name = "sdp::kernels::rms_norm_backward_weight";
  Details::check_rms_norm_backward(k_name, d_out, x, rstd);
  Details::check_rms_norm_partials(k_name, x, partials, d_weight);
  if (x.extent(0) == 0 || x.extent(1) == 0) return;
  Details::rms_norm_backward_rows<false, true>(k_name, exec, d_out, x, rstd, d_weight, partials,
                                               partials);
  Details::rms_norm_backward_reduce(exec, partials, d_weight,
                                    rms_norm_backward_chunks(static_cast<index_t>(x.extent(0))));
}

}  // namespace sdp::kernels
