// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "kernels/core/group.hpp"

// How batch norm shares a matrix of R rows and C channels. On host cores a thread takes chunks of
// 128 rows and works on a few vector registers of channels at a time. On devices a team takes a
// tile: one or several chunks of rows and eight groups of channels, which are 128 bytes of a row
// where groups are of 16. A thread takes a lane of a group, every 32nd row of the tile, and loads a
// batch of a few rows before it works on them, so that enough bytes are under way.

namespace sdp::kernels::Details {

inline constexpr index_t k_batch_norm_rows_per_chunk = 128;

struct RowRange {
  index_t begin;
  index_t end;
};

KOKKOS_INLINE_FUNCTION RowRange batch_norm_chunk(index_t chunk, index_t rows) {
  const index_t begin = chunk * k_batch_norm_rows_per_chunk;
  const index_t end = begin + k_batch_norm_rows_per_chunk;
  return {begin, end < rows ? end : rows};
}

/// Channels that a thread of the host works on side by side.
inline constexpr int k_channel_tile = 64;

/// f(first channel, channels) for tiles of channels; the number is a constant but in the last tile.
template <class Team, class F>
KOKKOS_INLINE_FUNCTION void for_channel_tiles(Team const& team, index_t channels, F const& f) {
  row_for(team, (channels + k_channel_tile - 1) / k_channel_tile, [=](index_t t) {
    const index_t begin = t * k_channel_tile;
    if (begin + k_channel_tile <= channels)
      f(begin, FixedCount<k_channel_tile>());
    else
      f(begin, static_cast<int>(channels - begin));
  });
}

/// Teams of a device with scratch, of which a multiprocessor shall hold at least `Teams`: bounds
/// their registers.
template <int Teams, ExecutionSpace Exec>
auto tile_policy(Exec const& exec, index_t teams, std::size_t scratch_bytes) {
  constexpr int k_threads = 256, k_align = 16;
  using Bounds = Kokkos::LaunchBounds<k_threads, Teams>;
  Kokkos::TeamPolicy<Exec, Kokkos::IndexType<int>, Bounds> policy(exec, static_cast<int>(teams),
                                                                  team_size(exec, k_threads));
  policy.set_scratch_size(0, Kokkos::PerTeam(static_cast<int>(scratch_bytes) + k_align));
  return policy;
}
/// `count` elements in the scratch of a team.
template <class S, class Team>
KOKKOS_INLINE_FUNCTION S* scratch_of(Team const& team, std::size_t count) {
  return static_cast<S*>(team.team_scratch(0).get_shmem_aligned(count * sizeof(S), 16));
}

/// Sum of f(i) over i in [0, Count): four interleaved sums, then these by pairs.
template <int Count, class F>
KOKKOS_FORCEINLINE_FUNCTION double interleaved_sum(F const& f) {
  static_assert(Count % 4 == 0);
  double sums[4] = {};
  for (int i = 0; i < Count; i += 4)
    for (int k = 0; k < 4; ++k) sums[k] += static_cast<double>(f(i + k));
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/// The tiles of a matrix whose channels are in groups of N.
template <int N>
struct ChannelTiles {
  static constexpr int k_groups = 8;
  static constexpr int k_lanes = 32;
  static constexpr int k_width = k_groups * N;
  /// Elements of a sum per lane and channel.
  static constexpr int k_sums = k_lanes * k_width;

  index_t rows;
  index_t channels;
  index_t rows_per_tile;

  KOKKOS_INLINE_FUNCTION index_t across() const { return (channels + k_width - 1) / k_width; }
  KOKKOS_INLINE_FUNCTION index_t down() const { return (rows + rows_per_tile - 1) / rows_per_tile; }
  index_t count() const { return across() * down(); }
};

/// One of them.
template <int N>
struct ChannelTile : RowRange {
  using Tiles = ChannelTiles<N>;
  index_t row;  // of tiles
  int first;    // channel
  int width;    // channels

  KOKKOS_INLINE_FUNCTION ChannelTile(Tiles const& tiles, index_t number) {
    const index_t across = tiles.across();
    row = number / across;
    begin = row * tiles.rows_per_tile;
    end = begin + tiles.rows_per_tile < tiles.rows ? begin + tiles.rows_per_tile : tiles.rows;
    first = static_cast<int>(number - row * across) * Tiles::k_width;
    const index_t rest = tiles.channels - first;
    width = rest < Tiles::k_width ? static_cast<int>(rest) : Tiles::k_width;
  }

  /// f(lane, first channel of a group) shared among the threads of the team. (nvcc joins accesses
  /// to a group where its channel is an int.)
  template <class Team, class F>
  KOKKOS_INLINE_FUNCTION void for_lanes(Team const& team, F const& f) const {
    const int begin_channel = first, end_channel = first + width;
    row_for(team, Tiles::k_lanes * Tiles::k_groups, [=](index_t worker) {
      const int channel = begin_channel + static_cast<int>(worker) % Tiles::k_groups * N;
      if (channel < end_channel) f(static_cast<int>(worker) / Tiles::k_groups, channel);
    });
  }

  /// Rows of a lane.
  KOKKOS_FORCEINLINE_FUNCTION index_t rows_of(int lane) const {
    return (end - begin + Tiles::k_lanes - 1 - lane) / Tiles::k_lanes;
  }

  /// f(first row, rows) for the rows of a lane, at most `Batch` at a time and k_lanes apart.
  template <int Batch, class F>
  KOKKOS_FORCEINLINE_FUNCTION void for_batches(int lane, F const& f) const {
    for (index_t at = begin + lane; at < end; at += Tiles::k_lanes * Batch) {
      const index_t rest = (end - at + Tiles::k_lanes - 1) / Tiles::k_lanes;
      f(at, rest < Batch ? static_cast<int>(rest) : Batch);
    }
  }
};

/// A group of each of the first `rows` rows of a batch, as stored.
template <int Batch, int N, class T>
struct RowBatch {
  static constexpr int k_lanes = ChannelTiles<N>::k_lanes;
  Group<T, N> groups[Batch];

  KOKKOS_FORCEINLINE_FUNCTION RowBatch(T const* from, index_t stride, int rows) {
    for (int r = 0; r < Batch; ++r)
      if (r < rows) groups[r] = load_aligned_group<T>(from + r * k_lanes * stride, FixedCount<N>());
  }
  KOKKOS_FORCEINLINE_FUNCTION void store(T* to, index_t stride, int rows) const {
    for (int r = 0; r < Batch; ++r)
      if (r < rows) store_aligned_group(groups[r], to + r * k_lanes * stride);
  }
  KOKKOS_FORCEINLINE_FUNCTION Group<T, N>& operator[](int r) { return groups[r]; }
  KOKKOS_FORCEINLINE_FUNCTION Group<T, N> const& operator[](int r) const { return groups[r]; }
};

/// The tiles of a matrix on a device. At most 1024 lie below each other, so that what each of them
/// sums is added up fast.
template <int N>
ChannelTiles<N> batch_norm_tiles(index_t rows, index_t channels) {
  constexpr index_t k_most_rows = 1024 * k_batch_norm_rows_per_chunk;
  const index_t chunks = rows > 0 ? (rows + k_most_rows - 1) / k_most_rows : 1;
  return {rows, channels, chunks * k_batch_norm_rows_per_chunk};
}

/// finish(c, sum of p, sum of q) for every channel c, summed over the first `rows` rows of
/// partials, where terms(i, c, p, q) turns p = partials(i, c..) and q = partials(i, C + c..) of N
/// channels into what row i adds. A team of a device per N channels sums every 256th row in order,
/// then 32 of these sums at a time, then these 8, all in double.
template <int N, class Exec, class Partials, class Terms, class Finish>
void sum_tiles(FixedCount<N>, char const* name, Exec const& exec, Partials const& partials,
               index_t rows, Terms const& terms, Finish const& finish) {
  constexpr int k_lanes = 256, k_part = 32, k_parts = k_lanes / k_part;
  constexpr int k_columns = 2 * N;
  constexpr std::size_t k_sums = (k_lanes + k_parts) * k_columns;
  const auto channels = static_cast<index_t>(partials.extent(1)) / 2;
  Kokkos::parallel_for(
      name, tile_policy<2>(exec, channels / N, k_sums * sizeof(double)),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t first = team.league_rank() * static_cast<index_t>(N);
        const index_t count_rows = rows, second = channels, stride = 2 * channels;
        auto const* from = partials.data() + first;
        auto const to_terms = terms;
        auto const to_result = finish;
        double* const sums = scratch_of<double>(team, k_sums);
        double* const parts = sums + k_lanes * k_columns;
        row_for(team, k_lanes, [=](index_t lane) {
          Group<double, N> sum{}, other_sum{};
          for (index_t i = lane; i < count_rows; i += k_lanes) {
            auto p = load_aligned_group<double>(from + i * stride, FixedCount<N>());
            auto q = load_aligned_group<double>(from + i * stride + second, FixedCount<N>());
            to_terms(i, first, p, q);
            for (int j = 0; j < N; ++j) {
              sum[j] += p[j];
              other_sum[j] += q[j];
            }
          }
          for (int j = 0; j < N; ++j) {
            sums[lane * k_columns + j] = sum[j];
            sums[lane * k_columns + N + j] = other_sum[j];
          }
        });
        team.team_barrier();
        // (Clang 17 cannot compile the remainder of a division by 2 here for AMD's devices.)
        row_for(team, k_parts * k_columns, [=](index_t i) {
          const index_t part = i % k_parts, column = i / k_parts;
          auto const* lanes = sums + part * k_part * k_columns + column;
          parts[part * k_columns + column] =
              interleaved_sum<k_part>([=](int k) { return lanes[k * k_columns]; });
        });
        team.team_barrier();
        row_for(team, N, [=](index_t j) {
          auto const* column = parts + j;
          to_result(first + j,
                    interleaved_sum<k_parts>([=](int k) { return column[k * k_columns]; }),
                    interleaved_sum<k_parts>([=](int k) { return column[k * k_columns + N]; }));
        });
      });
}

}  // namespace sdp::kernels::Details
