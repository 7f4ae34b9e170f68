// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/team.hpp"
#include "kernels/nn/channel_runs.hpp"

// Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167) with the ReLU and the residual add that
// follow it in a residual network. Images lie with the channel last and are given as matrices of R
// rows (pixels of all images, see pixel_rows) and C channels.
//
//   z = (x - mean) * rstd * weight + bias (+ residual),   out = z, or max(z, 0)
//
// In training mean and rstd are those of the batch, rstd from the biased variance; in inference
// they come from the running statistics. Statistics are in accum_t of x. Sums over rows are formed
// over 128 rows at a time in row order (gradients over 8 rows, then in double), then over these
// chunks in order, in double. Every function throws ShapeError when extents do not fit.

namespace sdp::kernels {

enum class Activation { none, relu };

namespace Details {
inline constexpr index_t k_batch_norm_rows_per_chunk = 128;

/// Channels that one thread works on side by side: a few vector registers on the host.
template <class Exec>
inline constexpr int k_channel_tile = k_is_host<Exec> ? 64 : 1;

/// f(first channel, channels) for tiles of channels; the number is a constant but in the last tile.
template <int Tile, class Team, class F>
KOKKOS_INLINE_FUNCTION void for_channel_tiles(Team const& team, index_t channels, F const& f) {
  row_for(team, (channels + Tile - 1) / Tile, [=](index_t t) {
    const index_t begin = t * Tile;
    if (Tile == 1 || begin + Tile <= channels)
      f(begin, FixedCount<Tile>());
    else
      f(begin, static_cast<int>(channels - begin));
  });
}

struct RowRange {
  index_t begin;
  index_t end;
};

KOKKOS_INLINE_FUNCTION RowRange batch_norm_chunk(index_t chunk, index_t rows) {
  const index_t begin = chunk * k_batch_norm_rows_per_chunk;
  const index_t end = begin + k_batch_norm_rows_per_chunk;
  return {begin, end < rows ? end : rows};
}
}  // namespace Details

/// Rows of the `partials` workspace (chunks, 2*C): a function of R alone.
inline index_t batch_norm_chunks(index_t rows) {
  constexpr index_t k_rows = Details::k_batch_norm_rows_per_chunk;
  return (rows + k_rows - 1) / k_rows;
}

namespace Details {
template <class X, class Partials>
void check_batch_norm_partials(char const* name, X const& x, Partials const& partials) {
  static_assert(std::is_same_v<value_t<Partials>, accum_t<value_t<X>>>,
                "batch_norm: partials must be in accum_t of x");
  require_extent(name, "partials", partials, 0,
                 batch_norm_chunks(static_cast<index_t>(x.extent(0))));
  require_extent(name, "partials", partials, 1, 2 * static_cast<index_t>(x.extent(1)));
}

template <class X, class... Vectors>
void check_channel_vectors(char const* name, X const& x,
                           std::pair<char const*, Vectors> const&... vectors) {
  (require_extent(name, vectors.first, vectors.second, 0, static_cast<index_t>(x.extent(1))), ...);
}

/// partials(chunk, c) = mean, partials(chunk, C + c) = sum of squared deviations from it.
template <class Exec, class X, class Partials>
void batch_norm_moments(Exec const& exec, X const& x, Partials const& partials) {
  using A = value_t<Partials>;
  constexpr int k_tile = k_channel_tile<Exec>;
  const auto rows = static_cast<index_t>(x.extent(0));
  const auto channels = static_cast<index_t>(x.extent(1));
  Kokkos::parallel_for(
      "sdp::kernels::batch_norm_moments", row_policy(exec, batch_norm_chunks(rows)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const auto chunk = batch_norm_chunk(team.league_rank(), rows);
        const index_t stride = channels;
        auto const* from = x.data();
        auto* to = &partials(team.league_rank(), 0);
        for_channel_tiles<k_tile>(team, stride, [=](index_t first, auto count) {
          A mean[k_tile], squares[k_tile];
          for (int j = 0; j < count; ++j) mean[j] = squares[j] = A(0);
          for (index_t row = chunk.begin; row < chunk.end; ++row) {
            auto const* x_row = from + row * stride + first;
            for (int j = 0; j < count; ++j) mean[j] += static_cast<A>(x_row[j]);
          }
          const A share = A(1) / static_cast<A>(chunk.end - chunk.begin);
          for (int j = 0; j < count; ++j) mean[j] *= share;
          for (index_t row = chunk.begin; row < chunk.end; ++row) {
            auto const* x_row = from + row * stride + first;
            for (int j = 0; j < count; ++j) {
              const A deviation = static_cast<A>(x_row[j]) - mean[j];
              squares[j] += deviation * deviation;
            }
          }
          for (int j = 0; j < count; ++j) {
            to[first + j] = mean[j];
            to[stride + first + j] = squares[j];
          }
        });
      });
}
}  // namespace Details

/// Statistics of a training batch, and the running statistics moved towards them:
///   mean = mean of x, rstd = 1 / sqrt(var + eps), var = mean of (x - mean)^2
///   running_mean = (1 - momentum) * running_mean + momentum * mean
///   running_var  = (1 - momentum) * running_var  + momentum * var * R / (R - 1)
///
/// x (R,C) with R >= 2, partials (batch_norm_chunks(R), 2*C) a workspace, overwritten; mean, rstd
/// (C) overwritten; running_mean, running_var (C) in place. With momentum 1/t at batch t = 1, 2,
/// ... the running statistics are the cumulative average.
template <ExecutionSpace Exec, RowMajor<2> X, RowMajor<2> Partials, RowMajor<1> Mean,
          RowMajor<1> Rstd, RowMajor<1> RunningMean, RowMajor<1> RunningVar>
void batch_norm_statistics(Exec const& exec, X const& x, double eps, double momentum,
                           Partials const& partials, Mean const& mean, Rstd const& rstd,
                           RunningMean const& running_mean, RunningVar const& running_var) {
  constexpr char const* k_name = "sdp::kernels::batch_norm_statistics";
  const auto rows = static_cast<index_t>(x.extent(0));
  require(rows >= 2, k_name, "x " + shape_string(x) + " must have at least 2 rows");
  Details::check_batch_norm_partials(k_name, x, partials);
  Details::check_channel_vectors(k_name, x, std::pair{"mean", mean}, std::pair{"rstd", rstd},
                                 std::pair{"running_mean", running_mean},
                                 std::pair{"running_var", running_var});
  const auto channels = static_cast<index_t>(x.extent(1));
  if (channels == 0) return;
  Details::batch_norm_moments(exec, x, partials);
  const index_t chunks = batch_norm_chunks(rows);
  Kokkos::parallel_for(
      k_name, row_policy(exec, 1), KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        constexpr int k_tile = Details::k_channel_tile<Exec>;
        const index_t stride = 2 * channels;
        const index_t count_chunks = chunks, count_rows = rows, count_channels = channels;
        const double epsilon = eps, share = momentum;
        auto const* from = partials.data();
        auto* to_mean = mean.data();
        auto* to_rstd = rstd.data();
        auto* to_running_mean = running_mean.data();
        auto* to_running_var = running_var.data();
        Details::for_channel_tiles<k_tile>(team, count_channels, [=](index_t first, auto count) {
          double centre[k_tile], squares[k_tile];
          for (int j = 0; j < count; ++j) centre[j] = squares[j] = 0.0;
          for (index_t i = 0; i < count_chunks; ++i) {
            const auto chunk = Details::batch_norm_chunk(i, count_rows);
            const double weight = static_cast<double>(chunk.end - chunk.begin);
            auto const* part = from + i * stride + first;
            for (int j = 0; j < count; ++j) centre[j] += weight * static_cast<double>(part[j]);
          }
          for (int j = 0; j < count; ++j) centre[j] /= static_cast<double>(count_rows);
          for (index_t i = 0; i < count_chunks; ++i) {
            const auto chunk = Details::batch_norm_chunk(i, count_rows);
            const double weight = static_cast<double>(chunk.end - chunk.begin);
            auto const* part = from + i * stride + first;
            for (int j = 0; j < count; ++j) {
              const double shift = static_cast<double>(part[j]) - centre[j];
              squares[j] += static_cast<double>(part[count_channels + j]) + weight * shift * shift;
            }
          }
          for (int j = 0; j < count; ++j) {
            const index_t c = first + j;
            const double biased = squares[j] / static_cast<double>(count_rows);
            const double unbiased = squares[j] / static_cast<double>(count_rows - 1);
            to_mean[c] = static_cast<value_t<Mean>>(centre[j]);
            to_rstd[c] = static_cast<value_t<Rstd>>(1.0 / std::sqrt(biased + epsilon));
            to_running_mean[c] = static_cast<value_t<RunningMean>>(
                (1.0 - share) * static_cast<double>(to_running_mean[c]) + share * centre[j]);
            to_running_var[c] = static_cast<value_t<RunningVar>>(
                (1.0 - share) * static_cast<double>(to_running_var[c]) + share * unbiased);
          }
        });
      });
}

/// rstd = 1 / sqrt(running_var + eps), for inference. running_var, rstd (C); rstd is overwritten.
template <ExecutionSpace Exec, RowMajor<1> RunningVar, RowMajor<1> Rstd>
void batch_norm_inference_rstd(Exec const& exec, RunningVar const& running_var, double eps,
                               Rstd const& rstd) {
  constexpr char const* k_name = "sdp::kernels::batch_norm_inference_rstd";
  require_same_shape(k_name, "running_var", running_var, "rstd", rstd);
  Kokkos::parallel_for(
      k_name, element_policy(exec, static_cast<index_t>(rstd.extent(0))), KOKKOS_LAMBDA(index_t c) {
        rstd(c) =
            static_cast<value_t<Rstd>>(1.0 / std::sqrt(static_cast<double>(running_var(c)) + eps));
      });
}

namespace Details {
template <bool Add, bool Relu, class Exec, class X, class Mean, class Rstd, class W, class B,
          class Residual, class Out>
void batch_norm_apply(char const* name, Exec const& exec, X const& x, Mean const& mean,
                      Rstd const& rstd, W const& weight, B const& bias, Residual const& residual,
                      Out const& out) {
  using T = value_t<Out>;
  using A = accum_t<T>;
  constexpr int k_tile = k_channel_tile<Exec>;
  const auto rows = static_cast<index_t>(x.extent(0));
  const auto channels = static_cast<index_t>(x.extent(1));
  if (channels == 0) return;
  Kokkos::parallel_for(
      name, row_policy(exec, batch_norm_chunks(rows)), KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const auto chunk = batch_norm_chunk(team.league_rank(), rows);
        const index_t stride = channels;
        auto const* from = x.data();
        auto const* from_residual = residual.data();
        auto const* means = mean.data();
        auto const* rstds = rstd.data();
        auto const* weights = weight.data();
        auto const* biases = bias.data();
        auto* to = out.data();
        for_channel_tiles<k_tile>(team, stride, [=](index_t first, auto count) {
          A centre[k_tile], scale[k_tile], shift[k_tile];
          for (int j = 0; j < count; ++j) {
            centre[j] = static_cast<A>(means[first + j]);
            scale[j] = static_cast<A>(rstds[first + j]) * static_cast<A>(weights[first + j]);
            shift[j] = static_cast<A>(biases[first + j]);
          }
          for (index_t row = chunk.begin; row < chunk.end; ++row) {
            const index_t at = row * stride + first;
            auto const* x_row = from + at;
            [[maybe_unused]] auto const* residual_row = from_residual + at;
            auto* out_row = to + at;
            for (int j = 0; j < count; ++j) {
              A z = (static_cast<A>(x_row[j]) - centre[j]) * scale[j] + shift[j];
              if constexpr (Add) z += static_cast<A>(residual_row[j]);
              // NaN stays NaN
              if constexpr (Relu) z = z <= A(0) ? A(0) : z;
              out_row[j] = static_cast<T>(z);
            }
          }
        });
      });
}

template <bool Add, class Exec, class X, class Mean, class Rstd, class W, class B, class Residual,
          class Out>
void batch_norm_apply(char const* name, Exec const& exec, Activation activation, X const& x,
                      Mean const& mean, Rstd const& rstd, W const& weight, B const& bias,
                      Residual const& residual, Out const& out) {
  require_same_shape(name, "x", x, "out", out);
  check_channel_vectors(name, x, std::pair{"mean", mean}, std::pair{"rstd", rstd},
                        std::pair{"weight", weight}, std::pair{"bias", bias});
  if (activation == Activation::relu)
    batch_norm_apply<Add, true>(name, exec, x, mean, rstd, weight, bias, residual, out);
  else
    batch_norm_apply<Add, false>(name, exec, x, mean, rstd, weight, bias, residual, out);
}
}  // namespace Details

/// out = activation((x - mean) * rstd * weight + bias).
///
/// x, out (R,C), mean, rstd, weight, bias (C); out is overwritten and may alias x.
template <ExecutionSpace Exec, RowMajor<2> X, RowMajor<1> Mean, RowMajor<1> Rstd, RowMajor<1> W,
          RowMajor<1> B, RowMajor<2> Out>
void batch_norm_forward(Exec const& exec, Activation activation, X const& x, Mean const& mean,
                        Rstd const& rstd, W const& weight, B const& bias, Out const& out) {
  Details::batch_norm_apply<false>("sdp::kernels::batch_norm_forward", exec, activation, x, mean,
                                   rstd, weight, bias, x, out);
}

/// out = activation((x - mean) * rstd * weight + bias + residual): the end of a residual block.
///
/// x, residual, out (R,C), mean, rstd, weight, bias (C); out is overwritten and may alias x or
/// residual.
template <ExecutionSpace Exec, RowMajor<2> X, RowMajor<1> Mean, RowMajor<1> Rstd, RowMajor<1> W,
          RowMajor<1> B, RowMajor<2> Residual, RowMajor<2> Out>
void batch_norm_add_forward(Exec const& exec, Activation activation, X const& x, Mean const& mean,
                            Rstd const& rstd, W const& weight, B const& bias,
                            Residual const& residual, Out const& out) {
  constexpr char const* k_name = "sdp::kernels::batch_norm_add_forward";
  require_same_shape(k_name, "x", x, "residual", residual);
  Details::batch_norm_apply<true>(k_name, exec, activation, x, mean, rstd, weight, bias, residual,
                                  out);
}

}  // namespace sdp::kernels
