// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/nn/channel_tiles.hpp"

// The gradient of batch norm on devices: the kernels behind batch_norm_backward.hpp. Groups as in
// batch_norm_device.hpp.

namespace sdp::kernels::Details {

/// d_out becomes the gradient of z where Relu; partials(i, c) = sum of it over tile i of rows,
/// partials(i, C + c) = sum of it times (x - mean). A lane sums two rows in accum_t and these sums
/// in double; the sums of the lanes, rounded to accum_t, are added in double.
template <bool Relu, int N, class Exec, class DOut, class Out, class X, class Mean, class Partials>
void batch_norm_backward_tiles(FixedCount<N>, Exec const& exec, DOut const& d_out, Out const& out,
                               X const& x, Mean const& mean, Partials const& partials) {
  using T = value_t<DOut>;
  using A = value_t<Partials>;
  using Tiles = ChannelTiles<N>;
  constexpr int k_batch = 2;
  const auto tiles =
      batch_norm_tiles<N>(static_cast<index_t>(x.extent(0)), static_cast<index_t>(x.extent(1)));
  Kokkos::parallel_for(
      "sdp::kernels::batch_norm_backward_partials",
      tile_policy<2>(exec, tiles.count(), 2 * Tiles::k_sums * sizeof(A)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const ChannelTile<N> tile(tiles, team.league_rank());
        const index_t stride = tiles.channels;
        auto const* from = x.data();
        auto const* from_out = out.data();
        auto const* means = mean.data();
        auto* gradient = d_out.data();
        auto* to = partials.data() + tile.row * 2 * stride + tile.first;
        A* const sums = scratch_of<A>(team, 2 * Tiles::k_sums);
        tile.for_lanes(team, [=](int lane, int channel) {
          const auto centre = load_group<A>(means + channel, FixedCount<N>());
          Group<double, N> sum{}, product{};
          tile.template for_batches<k_batch>(lane, [&](index_t row, int rows) {
            const index_t at = row * stride + channel;
            RowBatch<k_batch, N, T> d(gradient + at, stride, rows);
            const RowBatch<k_batch, N, value_t<X>> values(from + at, stride, rows);
            [[maybe_unused]] const RowBatch<k_batch, N, value_t<Out>> outs(from_out + at, stride,
                                                                           Relu ? rows : 0);
            Group<A, N> few{}, few_products{};
            for (int r = 0; r < k_batch; ++r)
              if (r < rows)
                for (int j = 0; j < N; ++j) {
                  if constexpr (Relu)
                    d[r][j] = static_cast<A>(outs[r][j]) <= A(0) ? T(0.0f) : d[r][j];
                  const A value = static_cast<A>(d[r][j]);
                  few[j] += value;
                  few_products[j] += value * (static_cast<A>(values[r][j]) - centre[j]);
                }
            if constexpr (Relu) d.store(gradient + at, stride, rows);
            for (int j = 0; j < N; ++j) {
              sum[j] += static_cast<double>(few[j]);
              product[j] += static_cast<double>(few_products[j]);
            }
          });
          A* const lane_sums = sums + lane * Tiles::k_width + channel - tile.first;
          store_aligned_group(sum, lane_sums);
          store_aligned_group(product, lane_sums + Tiles::k_sums);
        });
        team.team_barrier();
        row_for(team, 2 * tile.width, [=](index_t i) {
          const index_t which = i / tile.width, c = i - which * tile.width;
          A const* const lanes = sums + which * Tiles::k_sums + c;
          to[which * stride + c] = static_cast<A>(interleaved_sum<Tiles::k_lanes>(
              [=](int lane) { return lanes[lane * Tiles::k_width]; }));
        });
      });
}

struct PlainTerms {
  template <int N>
  KOKKOS_FORCEINLINE_FUNCTION void operator()(index_t, index_t, Group<double, N>&,
                                              Group<double, N>&) const {}
};

/// sums(0,c) = d_bias, sums(1,c) = d_weight.
template <class Rstd, class S>
struct GradientFinish {
  Rstd const* rstd;
  S* sums;
  index_t channels;

  KOKKOS_FORCEINLINE_FUNCTION void operator()(index_t c, double sum, double product) const {
    sums[c] = static_cast<S>(sum);
    sums[channels + c] = static_cast<S>(product * static_cast<double>(rstd[c]));
  }
};

/// Partial sums over the tiles, then sums (2,C) over all rows.
template <bool Relu, class Exec, class DOut, class Out, class X, class Mean, class Rstd,
          class Partials, class Sums>
void batch_norm_backward_sums_tiles(Exec const& exec, DOut const& d_out, Out const& out, X const& x,
                                    Mean const& mean, Rstd const& rstd, Partials const& partials,
                                    Sums const& sums) {
  using A = value_t<Partials>;
  const auto rows = static_cast<index_t>(x.extent(0)), channels = static_cast<index_t>(x.extent(1));
  const auto partial = [&](auto count) {
    batch_norm_backward_tiles<Relu>(count, exec, d_out, out, x, mean, partials);
  };
  constexpr int k_count = k_group<Exec, value_t<DOut>>;
  if constexpr (Relu)
    with_aligned_groups<k_count>(channels, partial, d_out.data(), x.data(), out.data());
  else
    with_aligned_groups<k_count>(channels, partial, d_out.data(), x.data());
  const GradientFinish<value_t<Rstd>, value_t<Sums>> finish{rstd.data(), sums.data(), channels};
  const index_t tiles = batch_norm_tiles<1>(rows, channels).down();
  with_aligned_groups<k_group<Exec, A>>(
      channels,
      [&](auto count) {
        sum_tiles(count, "sdp::kernels::batch_norm_backward_sums", exec, partials, tiles,
                  PlainTerms(), finish);
      },
      partials.data());
}

/// d_x of batch_norm_backward from d_out, the gradient of z, and the sums over all rows.
template <int N, class Exec, class DOut, class X, class Mean, class Rstd, class W, class Sums,
          class DX>
void batch_norm_backward_input_tiles(FixedCount<N>, Exec const& exec, DOut const& d_out, X const& x,
                                     Mean const& mean, Rstd const& rstd, W const& weight,
                                     Sums const& sums, DX const& d_x) {
  using T = value_t<DX>;
  using A = accum_t<T>;
  using Tiles = ChannelTiles<N>;
  constexpr int k_batch = 2;
  const auto rows_of_all = static_cast<index_t>(x.extent(0));
  const auto tiles = batch_norm_tiles<N>(rows_of_all, static_cast<index_t>(x.extent(1)));
  Kokkos::parallel_for(
      "sdp::kernels::batch_norm_backward_input", tile_policy<3>(exec, tiles.count(), 0),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const ChannelTile<N> tile(tiles, team.league_rank());
        const index_t stride = tiles.channels;
        const double share = 1.0 / static_cast<double>(tiles.rows);
        auto const* from = x.data();
        auto const* gradient = d_out.data();
        auto const* means = mean.data();
        auto const* rstds = rstd.data();
        auto const* weights = weight.data();
        auto const* d_bias = sums.data();
        auto const* d_weight = sums.data() + stride;
        auto* to = d_x.data();
        tile.for_lanes(team, [=](int lane, int channel) {
          constexpr FixedCount<N> k_count;
          const auto centre = load_group<A>(means + channel, k_count);
          auto scale = load_group<A>(rstds + channel, k_count);
          const auto factor = load_group<A>(weights + channel, k_count);
          auto offset = load_group<A>(d_bias + channel, k_count);
          auto slope = load_group<A>(d_weight + channel, k_count);
          for (int j = 0; j < N; ++j) {
            slope[j] = static_cast<A>(static_cast<double>(scale[j]) *
                                      static_cast<double>(slope[j]) * share);
            offset[j] = static_cast<A>(static_cast<double>(offset[j]) * share);
            scale[j] *= factor[j];
          }
          tile.template for_batches<k_batch>(lane, [&](index_t row, int rows) {
            const index_t at = row * stride + channel;
            const RowBatch<k_batch, N, value_t<DOut>> d(gradient + at, stride, rows);
            const RowBatch<k_batch, N, value_t<X>> values(from + at, stride, rows);
            for (int r = 0; r < k_batch; ++r)
              if (r < rows) {
                Group<A, N> result;
                for (int j = 0; j < N; ++j)
                  result[j] = scale[j] * (static_cast<A>(d[r][j]) - offset[j] -
                                          (static_cast<A>(values[r][j]) - centre[j]) * slope[j]);
                store_aligned_group(result, to + at + r * Tiles::k_lanes * stride);
              }
          });
        });
      });
}

}  // namespace sdp::kernels::Details
