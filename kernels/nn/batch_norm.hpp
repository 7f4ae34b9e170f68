// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/core/team.hpp"
#include "kernels/nn/batch_norm_device.hpp"
#include "kernels/nn/channel_runs.hpp"
#include "kernels/nn/channel_tiles.hpp"

// Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167) with the ReLU and the residual add that
// follow it in a residual network. Images lie with the channel last and are given as matrices of R
// rows (pixels of all images, see pixel_rows) and C channels.
//
//   z = (x - mean) * rstd * weight + bias (+ residual),   out = z, or max(z, 0)
//
// In training mean and rstd are those of the batch, rstd from the biased variance; in inference
// they come from the running statistics. Statistics are in accum_t of x. Every function throws
// ShapeError when extents do not fit.
//
// Order of the sums on host cores: over 128 rows at a time in row order (gradients over 8 rows,
// then in double), then over these chunks in order, in double. On devices: over every 32nd row of a
// tile, a lane, in row order (statistics as deviations from the first of them; gradients over 2
// rows, then in double), then over the 32 lanes and over the tiles, in double. A tile has 128 rows,
// or as many times 128 as make at most 1024 tiles. The order depends on R alone.

namespace sdp::kernels {

enum class Activation { none, relu };

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
  const auto rows = static_cast<index_t>(x.extent(0));
  const auto channels = static_cast<index_t>(x.extent(1));
  Kokkos::parallel_for(
      "sdp::kernels::batch_norm_moments", row_policy(exec, batch_norm_chunks(rows)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const auto chunk = batch_norm_chunk(team.league_rank(), rows);
        const index_t stride = channels;
        auto const* from = x.data();
        auto* to = &partials(team.league_rank(), 0);
        for_channel_tiles(team, stride, [=](index_t first, auto count) {
          A mean[k_channel_tile], squares[k_channel_tile];
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

/// The statistics of a channel from its mean and its sum of squared deviations from it.
template <class Mean, class Rstd, class RunningMean, class RunningVar>
struct BatchNormUpdate {
  double eps;
  double momentum;
  double rows;
  Mean* mean;
  Rstd* rstd;
  RunningMean* running_mean;
  RunningVar* running_var;

  KOKKOS_FORCEINLINE_FUNCTION void operator()(index_t c, double centre, double squares) const {
    const double biased = squares / rows;
    const double unbiased = squares / (rows - 1.0);
    mean[c] = static_cast<Mean>(centre);
    rstd[c] = static_cast<Rstd>(1.0 / std::sqrt(biased + eps));
    running_mean[c] = static_cast<RunningMean>(
        (1.0 - momentum) * static_cast<double>(running_mean[c]) + momentum * centre);
    running_var[c] = static_cast<RunningVar>(
        (1.0 - momentum) * static_cast<double>(running_var[c]) + momentum * unbiased);
  }
};

/// Moments of x on a host, then update(c, mean, sum of squared deviations) for every channel.
template <class Exec, class X, class Partials, class Update>
void batch_norm_statistics_chunks(char const* name, Exec const& exec, X const& x,
                                  Partials const& partials, Update const& update) {
  batch_norm_moments(exec, x, partials);
  const auto rows = static_cast<index_t>(x.extent(0));
  const auto channels = static_cast<index_t>(x.extent(1));
  const index_t chunks = batch_norm_chunks(rows);
  Kokkos::parallel_for(
      name, row_policy(exec, 1), KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t stride = 2 * channels;
        const index_t count_chunks = chunks, count_rows = rows, count_channels = channels;
        auto const* from = partials.data();
        auto const finish = update;
        for_channel_tiles(team, count_channels, [=](index_t first, auto count) {
          double centre[k_channel_tile], squares[k_channel_tile];
          for (int j = 0; j < count; ++j) centre[j] = squares[j] = 0.0;
          for (index_t i = 0; i < count_chunks; ++i) {
            const auto chunk = batch_norm_chunk(i, count_rows);
            const double weight = static_cast<double>(chunk.end - chunk.begin);
            auto const* part = from + i * stride + first;
            for (int j = 0; j < count; ++j) centre[j] += weight * static_cast<double>(part[j]);
          }
          for (int j = 0; j < count; ++j) centre[j] /= static_cast<double>(count_rows);
          for (index_t i = 0; i < count_chunks; ++i) {
            const auto chunk = batch_norm_chunk(i, count_rows);
            const double weight = static_cast<double>(chunk.end - chunk.begin);
            auto const* part = from + i * stride + first;
            for (int j = 0; j < count; ++j) {
              const double shift = static_cast<double>(part[j]) - centre[j];
              squares[j] += static_cast<double>(part[count_channels + j]) + weight * shift * shift;
            }
          }
          for (int j = 0; j < count; ++j) finish(first + j, centre[j], squares[j]);
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
  const Details::BatchNormUpdate update{eps,
                                        momentum,
                                        static_cast<double>(rows),
                                        mean.data(),
                                        rstd.data(),
                                        running_mean.data(),
                                        running_var.data()};
  if constexpr (k_is_host<Exec>)
    Details::batch_norm_statistics_chunks(k_name, exec, x, partials, update);
  else
    Details::batch_norm_statistics_tiles(k_name, exec, x, partials, update);
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
void batch_norm_apply_chunks(char const* name, Exec const& exec, X const& x, Mean const& mean,
                             Rstd const& rstd, W const& weight, B const& bias,
                             Residual const& residual, Out const& out) {
  using T = value_t<Out>;
  using A = accum_t<T>;
  const auto rows = static_cast<index_t>(x.extent(0));
  const auto channels = static_cast<index_t>(x.extent(1));
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
        for_channel_tiles(team, stride, [=](index_t first, auto count) {
          A centre[k_channel_tile], scale[k_channel_tile], shift[k_channel_tile];
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

template <bool Add, bool Relu, class Exec, class X, class Mean, class Rstd, class W, class B,
          class Residual, class Out>
void batch_norm_apply(char const* name, Exec const& exec, X const& x, Mean const& mean,
                      Rstd const& rstd, W const& weight, B const& bias, Residual const& residual,
                      Out const& out) {
  if constexpr (k_is_host<Exec>)
    batch_norm_apply_chunks<Add, Relu>(name, exec, x, mean, rstd, weight, bias, residual, out);
  else
    with_aligned_groups<k_group<Exec, value_t<Out>>>(
        static_cast<index_t>(x.extent(1)),
        [&](auto count) {
          batch_norm_apply_tiles<Add, Relu>(count, name, exec, x, mean, rstd, weight, bias,
                                            residual, out);
        },
        x.data(), residual.data(), out.data());
}

template <bool Add, class Exec, class X, class Mean, class Rstd, class W, class B, class Residual,
          class Out>
void batch_norm_apply(char const* name, Exec const& exec, Activation activation, X const& x,
                      Mean const& mean, Rstd const& rstd, W const& weight, B const& bias,
                      Residual const& residual, Out const& out) {
  require_same_shape(name, "x", x, "out", out);
  check_channel_vectors(name, x, std::pair{"mean", mean}, std::pair{"rstd", rstd},
                        std::pair{"weight", weight}, std::pair{"bias", bias});
  if (x.size() == 0) return;
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
