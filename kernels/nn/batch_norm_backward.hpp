// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/nn/batch_norm.hpp"
#include "kernels/nn/batch_norm_backward_device.hpp"

namespace sdp::kernels {

namespace Details {
/// Rows whose gradients are summed in accum_t. An error of a sum is in every d_x of its channel,
/// and the weight gradient of the convolution below adds those up: rounding must stay far below
/// that of a single d_x.
inline constexpr index_t k_batch_norm_rows_per_sum = 8;

/// d_out becomes the gradient of z where Relu; partials(chunk, c) = sum of it, partials(chunk, C+c)
/// = sum of it times (x - mean).
template <bool Relu, class Exec, class DOut, class Out, class X, class Mean, class Partials>
void batch_norm_backward_partials(Exec const& exec, DOut const& d_out, Out const& out, X const& x,
                                  Mean const& mean, Partials const& partials) {
  using T = value_t<DOut>;
  using A = value_t<Partials>;
  const auto rows = static_cast<index_t>(x.extent(0));
  const auto channels = static_cast<index_t>(x.extent(1));
  Kokkos::parallel_for(
      "sdp::kernels::batch_norm_backward_partials", row_policy(exec, batch_norm_chunks(rows)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const auto chunk = batch_norm_chunk(team.league_rank(), rows);
        const index_t stride = channels;
        auto const* from = x.data();
        auto const* from_out = out.data();
        auto const* means = mean.data();
        auto* gradient = d_out.data();
        auto* to = &partials(team.league_rank(), 0);
        for_channel_tiles(team, stride, [=](index_t first, auto count) {
          A centre[k_channel_tile];
          double sum[k_channel_tile], product[k_channel_tile];
          for (int j = 0; j < count; ++j) {
            centre[j] = static_cast<A>(means[first + j]);
            sum[j] = product[j] = 0.0;
          }
          for (index_t begin = chunk.begin; begin < chunk.end; begin += k_batch_norm_rows_per_sum) {
            const index_t rest = chunk.end - begin;
            const index_t end =
                begin + (rest < k_batch_norm_rows_per_sum ? rest : k_batch_norm_rows_per_sum);
            A few[k_channel_tile], few_products[k_channel_tile];
            for (int j = 0; j < count; ++j) few[j] = few_products[j] = A(0);
            for (index_t row = begin; row < end; ++row) {
              const index_t at = row * stride + first;
              auto const* x_row = from + at;
              [[maybe_unused]] auto const* out_row = from_out + at;
              auto* d_row = gradient + at;
              for (int j = 0; j < count; ++j) {
                T d = d_row[j];
                if constexpr (Relu) {
                  d = static_cast<A>(out_row[j]) <= A(0) ? T(0.0f) : d;
                  d_row[j] = d;
                }
                few[j] += static_cast<A>(d);
                few_products[j] += static_cast<A>(d) * (static_cast<A>(x_row[j]) - centre[j]);
              }
            }
            for (int j = 0; j < count; ++j) {
              sum[j] += static_cast<double>(few[j]);
              product[j] += static_cast<double>(few_products[j]);
            }
          }
          for (int j = 0; j < count; ++j) {
            to[first + j] = static_cast<A>(sum[j]);
            to[stride + first + j] = static_cast<A>(product[j]);
          }
        });
      });
}

/// sums(0,c) = d_bias, sums(1,c) = d_weight: the partials in chunk order, in double.
template <class Exec, class Partials, class Rstd, class Sums>
void batch_norm_backward_sums(Exec const& exec, Partials const& partials, Rstd const& rstd,
                              Sums const& sums) {
  const auto chunks = static_cast<index_t>(partials.extent(0));
  const auto channels = static_cast<index_t>(rstd.extent(0));
  Kokkos::parallel_for(
      "sdp::kernels::batch_norm_backward_sums", row_policy(exec, 1),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t count_chunks = chunks, count_channels = channels;
        auto const* from = partials.data();
        auto const* rstds = rstd.data();
        auto* to = sums.data();
        for_channel_tiles(team, 2 * count_channels, [=](index_t first, auto count) {
          double sum[k_channel_tile];
          for (int j = 0; j < count; ++j) sum[j] = 0.0;
          for (index_t i = 0; i < count_chunks; ++i) {
            auto const* part = from + i * 2 * count_channels + first;
            for (int j = 0; j < count; ++j) sum[j] += static_cast<double>(part[j]);
          }
          for (int j = 0; j < count; ++j) {
            const index_t c = first + j;
            const double factor =
                c < count_channels ? 1.0 : static_cast<double>(rstds[c - count_channels]);
            to[c] = static_cast<value_t<Sums>>(sum[j] * factor);
          }
        });
      });
}

/// d_x = weight * rstd * (d - mean(d) - xhat * mean(d * xhat)) + beta * d_x, d the gradient of z.
template <class Exec, class DOut, class X, class Mean, class Rstd, class W, class Sums, class DX>
void batch_norm_backward_input_chunks(Exec const& exec, DOut const& d_out, X const& x,
                                      Mean const& mean, Rstd const& rstd, W const& weight,
                                      Sums const& sums, DX const& d_x) {
  using T = value_t<DX>;
  using A = accum_t<T>;
  const auto rows = static_cast<index_t>(x.extent(0));
  const auto channels = static_cast<index_t>(x.extent(1));
  Kokkos::parallel_for(
      "sdp::kernels::batch_norm_backward_input", row_policy(exec, batch_norm_chunks(rows)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const auto chunk = batch_norm_chunk(team.league_rank(), rows);
        const index_t stride = channels;
        const double share = 1.0 / static_cast<double>(rows);
        auto const* from = x.data();
        auto const* gradient = d_out.data();
        auto const* means = mean.data();
        auto const* rstds = rstd.data();
        auto const* weights = weight.data();
        auto const* d_bias = sums.data();
        auto const* d_weight = sums.data() + stride;
        auto* to = d_x.data();
        for_channel_tiles(team, stride, [=](index_t first, auto count) {
          A centre[k_channel_tile], scale[k_channel_tile], slope[k_channel_tile],
              offset[k_channel_tile];
          for (int j = 0; j < count; ++j) {
            const index_t c = first + j;
            const A deviation = static_cast<A>(rstds[c]);
            centre[j] = static_cast<A>(means[c]);
            scale[j] = deviation * static_cast<A>(weights[c]);
            slope[j] = static_cast<A>(static_cast<double>(deviation) *
                                      static_cast<double>(d_weight[c]) * share);
            offset[j] = static_cast<A>(static_cast<double>(d_bias[c]) * share);
          }
          for (index_t row = chunk.begin; row < chunk.end; ++row) {
            const index_t at = row * stride + first;
            auto const* x_row = from + at;
            auto const* d_row = gradient + at;
            auto* to_row = to + at;
            for (int j = 0; j < count; ++j) {
              const A d = static_cast<A>(d_row[j]) - offset[j] -
                          (static_cast<A>(x_row[j]) - centre[j]) * slope[j];
              to_row[j] = static_cast<T>(scale[j] * d);
            }
          }
        });
      });
}

template <class Exec, class DOut, class X, class Mean, class Rstd, class W, class Sums, class DX>
void batch_norm_backward_input(Exec const& exec, DOut const& d_out, X const& x, Mean const& mean,
                               Rstd const& rstd, W const& weight, Sums const& sums, DX const& d_x) {
  if constexpr (k_is_host<Exec>)
    batch_norm_backward_input_chunks(exec, d_out, x, mean, rstd, weight, sums, d_x);
  else
    with_aligned_groups<k_group<Exec, value_t<DX>>>(
        static_cast<index_t>(x.extent(1)),
        [&](auto count) {
          batch_norm_backward_input_tiles(count, exec, d_out, x, mean, rstd, weight, sums, d_x);
        },
        d_out.data(), x.data(), d_x.data());
}

/// Both sums over all rows.
template <bool Relu, class Exec, class DOut, class Out, class X, class Mean, class Rstd,
          class Partials, class Sums>
void batch_norm_backward_reduce(Exec const& exec, DOut const& d_out, Out const& out, X const& x,
                                Mean const& mean, Rstd const& rstd, Partials const& partials,
                                Sums const& sums) {
  if constexpr (k_is_host<Exec>) {
    batch_norm_backward_partials<Relu>(exec, d_out, out, x, mean, partials);
    batch_norm_backward_sums(exec, partials, rstd, sums);
  } else {
    batch_norm_backward_sums_tiles<Relu>(exec, d_out, out, x, mean, rstd, partials, sums);
  }
}

/// to(run) += from(run) for every run, or all channels.
template <class Exec, class Runs, class Sums, class DW>
void accumulate_channels(Exec const& exec, Runs const& runs, Sums const& sums, int row,
                         DW const& to) {
  using A = accum_t<value_t<DW>>;
  const auto channels = static_cast<index_t>(sums.extent(1));
  if (to.extent(0) == 0) return;
  Kokkos::parallel_for(
      "sdp::kernels::batch_norm_accumulate", row_policy(exec, 1),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t all = channels;
        auto const* from = sums.data() + row * all;
        auto* gradient = to.data();
        for_each_run(runs, all, [=](index_t first, index_t target, index_t count) {
          row_for(team, count, [=](index_t j) {
            gradient[target + j] = static_cast<value_t<DW>>(static_cast<A>(gradient[target + j]) +
                                                            static_cast<A>(from[first + j]));
          });
        });
      });
}
}  // namespace Details

/// Gradient of batch_norm_statistics followed by batch_norm_forward or batch_norm_add_forward (in
/// training), with d = d_out where out > 0 (everywhere without ReLU) and xhat = (x - mean) * rstd:
///   d_x = weight * rstd * (d - mean(d) - xhat * mean(d * xhat))
///   d_weight += sum of d * xhat,   d_bias += sum of d, for the channels that `channels` names
/// d_out becomes d, which is also the gradient of the residual.
///
/// d_out (R,C) in place, out, x, d_x (R,C), mean, rstd, weight (C); d_x is overwritten and may
/// alias d_out (which then is d_x) or x. out is read with ReLU alone. d_weight, d_bias have as many
/// elements as channels are named, or C with AllChannels. partials (batch_norm_chunks(R), 2*C) and
/// sums (2,C) are workspaces in accum_t, overwritten.
template <ExecutionSpace Exec, RowMajor<2> DOut, RowMajor<2> Out, RowMajor<2> X, RowMajor<1> Mean,
          RowMajor<1> Rstd, RowMajor<1> W, ChannelRuns Runs, RowMajor<2> Partials, RowMajor<2> Sums,
          RowMajor<2> DX, RowMajor<1> DW, RowMajor<1> DB>
void batch_norm_backward(Exec const& exec, Activation activation, DOut const& d_out, Out const& out,
                         X const& x, Mean const& mean, Rstd const& rstd, W const& weight,
                         Runs const& channels, Partials const& partials, Sums const& sums,
                         DX const& d_x, DW const& d_weight, DB const& d_bias) {
  constexpr char const* k_name = "sdp::kernels::batch_norm_backward";
  require_same_shape(k_name, "x", x, "d_out", d_out);
  require_same_shape(k_name, "x", x, "d_x", d_x);
  if (activation == Activation::relu) require_same_shape(k_name, "x", x, "out", out);
  Details::check_batch_norm_partials(k_name, x, partials);
  Details::check_channel_vectors(k_name, x, std::pair{"mean", mean}, std::pair{"rstd", rstd},
                                 std::pair{"weight", weight});
  require_extent(k_name, "sums", sums, 0, 2);
  require_extent(k_name, "sums", sums, 1, static_cast<index_t>(x.extent(1)));
  require_same_shape(k_name, "d_weight", d_weight, "d_bias", d_bias);
  if constexpr (std::is_same_v<Runs, AllChannels>)
    Details::check_channel_vectors(k_name, x, std::pair{"d_weight", d_weight});
  if (x.extent(0) == 0 || x.extent(1) == 0) return;
  if (activation == Activation::relu)
    Details::batch_norm_backward_reduce<true>(exec, d_out, out, x, mean, rstd, partials, sums);
  else
    Details::batch_norm_backward_reduce<false>(exec, d_out, out, x, mean, rstd, partials, sums);
  Details::batch_norm_backward_input(exec, d_out, x, mean, rstd, weight, sums, d_x);
  Details::accumulate_channels(exec, channels, sums, 0, d_bias);
  Details::accumulate_channels(exec, channels, sums, 1, d_weight);
}

}  // namespace sdp::kernels
