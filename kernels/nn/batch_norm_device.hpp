// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/nn/channel_tiles.hpp"

// Batch norm on devices: the kernels behind batch_norm.hpp. Groups are of N channels; N is 1 where
// rows do not begin at multiples of 16 bytes, with the same bits.

namespace sdp::kernels::Details {

/// partials(i, c) = mean over tile i of rows, partials(i, C + c) = sum of squared deviations from
/// it. A lane sums deviations from its first row in accum_t; being one of its few rows, that is
/// never so far from their mean that the squares cancel. The lanes are put together in double, from
/// the distances of their means to the first row of the tile.
template <int N, class Exec, class X, class Partials>
void batch_norm_tile_moments(FixedCount<N>, Exec const& exec, X const& x,
                             Partials const& partials) {
  using T = value_t<X>;
  using A = value_t<Partials>;
  using Tiles = ChannelTiles<N>;
  constexpr int k_batch = 4;
  const auto tiles =
      batch_norm_tiles<N>(static_cast<index_t>(x.extent(0)), static_cast<index_t>(x.extent(1)));
  Kokkos::parallel_for(
      "sdp::kernels::batch_norm_moments",
      tile_policy<3>(exec, tiles.count(), 2 * Tiles::k_sums * sizeof(A)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const ChannelTile<N> tile(tiles, team.league_rank());
        const index_t stride = tiles.channels;
        auto const* from = x.data();
        auto const* pivots = from + tile.begin * stride;
        auto* to = partials.data() + tile.row * 2 * stride + tile.first;
        A* const sums = scratch_of<A>(team, 2 * Tiles::k_sums);
        tile.for_lanes(team, [=](int lane, int channel) {
          const index_t rows_of_lane = tile.rows_of(lane);
          Group<A, N> mean{}, squares{};
          if (rows_of_lane > 0) {
            const auto pivot = load_aligned_group<A>(pivots + channel, FixedCount<N>());
            const auto own =
                load_aligned_group<A>(pivots + lane * stride + channel, FixedCount<N>());
            tile.template for_batches<k_batch>(lane, [&](index_t row, int rows) {
              const RowBatch<k_batch, N, T> values(from + row * stride + channel, stride, rows);
              for (int r = 0; r < k_batch; ++r)
                if (r < rows)
                  for (int j = 0; j < N; ++j) {
                    const A deviation = static_cast<A>(values[r][j]) - own[j];
                    mean[j] += deviation;
                    squares[j] += deviation * deviation;
                  }
            });
            const A share = A(1) / static_cast<A>(rows_of_lane);
            for (int j = 0; j < N; ++j) {
              const A about_mean = squares[j] - mean[j] * mean[j] * share;
              squares[j] = about_mean < A(0) ? A(0) : about_mean;
              mean[j] = own[j] - pivot[j] + mean[j] * share;
            }
          }
          A* const lane_sums = sums + lane * Tiles::k_width + channel - tile.first;
          store_aligned_group(mean, lane_sums);
          store_aligned_group(squares, lane_sums + Tiles::k_sums);
        });
        team.team_barrier();
        const index_t rows = tile.end - tile.begin;
        const double full = static_cast<double>(rows / Tiles::k_lanes);
        const int longer = static_cast<int>(rows % Tiles::k_lanes);
        row_for(team, tile.width, [=](index_t c) {
          A const* const means = sums + c;
          A const* const all_squares = means + Tiles::k_sums;
          const auto weight = [=](int lane) { return lane < longer ? full + 1.0 : full; };
          const double shift =
              interleaved_sum<Tiles::k_lanes>([=](int lane) {
                return weight(lane) * static_cast<double>(means[lane * Tiles::k_width]);
              }) /
              static_cast<double>(rows);
          const double squares = interleaved_sum<Tiles::k_lanes>([=](int lane) {
            const double distance = static_cast<double>(means[lane * Tiles::k_width]) - shift;
            return static_cast<double>(all_squares[lane * Tiles::k_width]) +
                   weight(lane) * distance * distance;
          });
          to[c] =
              static_cast<A>(static_cast<double>(static_cast<A>(pivots[tile.first + c])) + shift);
          to[stride + c] = static_cast<A>(squares);
        });
      });
}

/// (mean, sum of squares) of a tile to the terms of the sums of its deviations from a pivot, the
/// mean of the first tile.
template <class A>
struct MomentTerms {
  A const* pivots;
  index_t rows;
  index_t rows_per_tile;

  KOKKOS_FORCEINLINE_FUNCTION double weight(index_t tile) const {
    const index_t rest = rows - tile * rows_per_tile;
    return static_cast<double>(rest < rows_per_tile ? rest : rows_per_tile);
  }
  template <int N>
  KOKKOS_FORCEINLINE_FUNCTION void operator()(index_t tile, index_t first, Group<double, N>& mean,
                                              Group<double, N>& squares) const {
    const double count = weight(tile);
    for (int j = 0; j < N; ++j) {
      const double shift = mean[j] - static_cast<double>(pivots[first + j]);
      mean[j] = count * shift;
      squares[j] += count * shift * shift;
    }
  }
};

/// update(c, mean, sum of squares) from the sums of MomentTerms.
template <class A, class Update>
struct MomentFinish {
  A const* pivots;
  double rows;
  Update update;

  KOKKOS_FORCEINLINE_FUNCTION void operator()(index_t c, double sum, double squares) const {
    const double shift = sum / rows;
    const double about_mean = squares - sum * shift;
    update(c, static_cast<double>(pivots[c]) + shift, about_mean < 0.0 ? 0.0 : about_mean);
  }
};

/// Moments of x, then update(c, mean, sum of squared deviations) for every channel.
template <class Exec, class X, class Partials, class Update>
void batch_norm_statistics_tiles(char const* name, Exec const& exec, X const& x,
                                 Partials const& partials, Update const& update) {
  using A = value_t<Partials>;
  const auto rows = static_cast<index_t>(x.extent(0)), channels = static_cast<index_t>(x.extent(1));
  with_aligned_groups<k_group<Exec, value_t<X>>>(
      channels, [&](auto count) { batch_norm_tile_moments(count, exec, x, partials); }, x.data());
  const auto tiles = batch_norm_tiles<1>(rows, channels);
  A const* const pivots = partials.data();
  const MomentTerms<A> terms{pivots, rows, tiles.rows_per_tile};
  const MomentFinish<A, Update> finish{pivots, static_cast<double>(rows), update};
  with_aligned_groups<k_group<Exec, A>>(
      channels,
      [&](auto count) { sum_tiles(count, name, exec, partials, tiles.down(), terms, finish); },
      pivots);
}

/// out of batch_norm_forward or, with Add, batch_norm_add_forward.
template <bool Add, bool Relu, int N, class Exec, class X, class Mean, class Rstd, class W, class B,
          class Residual, class Out>
void batch_norm_apply_tiles(FixedCount<N>, char const* name, Exec const& exec, X const& x,
                            Mean const& mean, Rstd const& rstd, W const& weight, B const& bias,
                            Residual const& residual, Out const& out) {
  using T = value_t<Out>;
  using A = accum_t<T>;
  using Tiles = ChannelTiles<N>;
  constexpr int k_batch = Add ? 2 : 4;
  const auto tiles =
      batch_norm_tiles<N>(static_cast<index_t>(x.extent(0)), static_cast<index_t>(x.extent(1)));
  Kokkos::parallel_for(
      name, tile_policy<3>(exec, tiles.count(), 0), KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const ChannelTile<N> tile(tiles, team.league_rank());
        const index_t stride = tiles.channels;
        auto const* from = x.data();
        auto const* from_residual = residual.data();
        auto const* means = mean.data();
        auto const* rstds = rstd.data();
        auto const* weights = weight.data();
        auto const* biases = bias.data();
        auto* to = out.data();
        tile.for_lanes(team, [=](int lane, int channel) {
          constexpr FixedCount<N> k_count;
          const auto centre = load_group<A>(means + channel, k_count);
          auto scale = load_group<A>(rstds + channel, k_count);
          const auto factor = load_group<A>(weights + channel, k_count);
          const auto shift = load_group<A>(biases + channel, k_count);
          for (int j = 0; j < N; ++j) scale[j] *= factor[j];
          tile.template for_batches<k_batch>(lane, [&](index_t row, int rows) {
            const index_t at = row * stride + channel;
            const RowBatch<k_batch, N, value_t<X>> values(from + at, stride, rows);
            [[maybe_unused]] const RowBatch<k_batch, N, value_t<Residual>> added(
                from_residual + at, stride, Add ? rows : 0);
            for (int r = 0; r < k_batch; ++r)
              if (r < rows) {
                Group<A, N> z;
                for (int j = 0; j < N; ++j) {
                  z[j] = (static_cast<A>(values[r][j]) - centre[j]) * scale[j] + shift[j];
                  if constexpr (Add) z[j] += static_cast<A>(added[r][j]);
                  // NaN stays NaN
                  if constexpr (Relu) z[j] = z[j] <= A(0) ? A(0) : z[j];
                }
                store_aligned_group(z, to + at + r * Tiles::k_lanes * stride);
              }
          });
        });
      });
}

}  // namespace sdp::kernels::Details
