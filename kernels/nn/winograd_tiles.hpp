// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/lanes.hpp"
#include "kernels/nn/convolution_gemm.hpp"
#include "kernels/nn/winograd_transforms.hpp"

// Kernels that take tiles of images, and weights, into the form in which Winograd's algorithm
// multiplies them, and back.

namespace sdp::kernels::Details {

/// f(first source channel, first target channel, channels) for groups of up to N channels; the
/// number is a constant where it is N.
template <int N, class Team, class Runs, class F>
KOKKOS_INLINE_FUNCTION void for_lane_groups(Team const& team, Runs const& runs, index_t channels,
                                            F const& f) {
  for_each_run(runs, channels, [&](index_t source, index_t target, index_t count) {
    row_for(team, (count + N - 1) / N, [=](index_t group) {
      const index_t done = group * N;
      if (N == 1 || done + N <= count)
        f(source + done, target + done, FixedCount<N>());
      else
        f(source + done, target + done, static_cast<int>(count - done));
    });
  });
}

/// Tiles of M x M pixels that cover images of height x width.
struct TileGrid {
  index_t height;
  index_t width;
  index_t rows;
  index_t cols;
};

inline TileGrid tile_grid(ConvolutionShape const& s, int m) {
  return {s.height, s.width, (s.height + m - 1) / m, (s.width + m - 1) / m};
}

/// The pixel `inner` rows and columns inside the tile after this one. Caches do not foresee the
/// pixels from there on, which no tile before has touched.
template <int M>
KOKKOS_FORCEINLINE_FUNCTION index_t next_tile(TileGrid const& grid, index_t tile, int inner) {
  const index_t next = tile + 1, image = next / (grid.rows * grid.cols);
  const index_t row = next / grid.cols % grid.rows * M + inner, col = next % grid.cols * M + inner;
  return (image * grid.height + row) * grid.width + col;
}

/// One matrix (rows, cols) for each position of a tile, `stride` elements apart.
template <class Work>
struct Planes {
  value_t<Work>* data;
  index_t rows;
  index_t cols;
  index_t stride;

  UnmanagedMatrix<Work> matrix(int position) const { return matrix(position, rows); }
  UnmanagedMatrix<Work> matrix(int position, index_t count_rows) const {
    return UnmanagedMatrix<Work>(data + position * stride, count_rows, cols);
  }
};

/// An odd number of cache lines that holds `size` elements.
inline index_t plane_stride(index_t size) {
  constexpr index_t k_line = 16;
  return ((size + k_line - 1) / k_line | 1) * k_line;
}

/// The tile's pixels, transformed: planes(position)(t, channel) for tiles begin + t. With Adjoint a
/// tile is M x M (a gradient of outputs), else (M+2) x (M+2) inputs; pixels outside are zero.
template <int M, bool Adjoint, class Exec, class Runs, class X, class Work>
void winograd_transform_images(Exec const& exec, TileGrid const& grid, Runs const& runs, X const& x,
                               index_t begin, index_t tiles, Planes<Work> const& planes) {
  using A = value_t<Work>;
  using Transform = Winograd<M>;
  constexpr int k_tile = Transform::k_tile;
  constexpr int k_size = Adjoint ? M : k_tile;
  constexpr int k_width = k_lanes<Exec, A>;
  const auto channels = static_cast<index_t>(x.extent(3));
  Kokkos::parallel_for(
      "sdp::kernels::convolution_transform_images", row_policy(exec, tiles),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        using Lane = Lanes<A, k_width>;
        const index_t tile = begin + team.league_rank();
        const index_t image = tile / (grid.rows * grid.cols);
        const index_t top = tile / grid.cols % grid.rows * M - (Adjoint ? 0 : 1);
        const index_t left = tile % grid.cols * M - (Adjoint ? 0 : 1);
        const index_t height = grid.height, width = grid.width, stride = channels;
        const index_t plane = planes.stride;
        A const* const all = x.data();
        A const* from = all + image * height * width * stride;
        A* to = planes.data + team.league_rank() * planes.cols;
        const bool inside =
            top >= 0 && left >= 0 && top + k_size <= height && left + k_size <= width;
        const index_t ahead = next_tile<M>(grid, tile, Adjoint ? 0 : 1);
        const auto transform = [=](index_t source, index_t target, auto count) {
          for (int i = 0; i < M; ++i)
            for (int j = 0; j < M; ++j)
              prefetch<Exec>(all, (ahead + i * width + j) * stride + source);
          Lane partial[k_tile][k_size];
          for (int j = 0; j < k_size; ++j) {
            Lane pixel[k_size], column[k_tile];
            A const* const first = from + (top * width + left + j) * stride + source;
            if (inside) {
              for (int i = 0; i < k_size; ++i)
                pixel[i] = load_lanes<k_width>(first + i * width * stride, count);
            } else {
              const bool column_inside = left + j >= 0 && left + j < width;
              for (int i = 0; i < k_size; ++i)
                pixel[i] = column_inside && top + i >= 0 && top + i < height
                               ? load_lanes<k_width>(first + i * width * stride, count)
                               : Lane{};
            }
            if constexpr (Adjoint)
              Transform::template output_adjoint<A>(pixel, column);
            else
              Transform::template input<A>(pixel, column);
            for (int i = 0; i < k_tile; ++i) partial[i][j] = column[i];
          }
          for (int i = 0; i < k_tile; ++i) {
            Lane row[k_tile];
            if constexpr (Adjoint)
              Transform::template output_adjoint<A>(partial[i], row);
            else
              Transform::template input<A>(partial[i], row);
            for (int j = 0; j < k_tile; ++j)
              store_lanes<k_width>(row[j], to + (i * k_tile + j) * plane + target, count);
          }
        };
        for_lane_groups<k_width>(team, runs, stride, transform);
      });
}

/// The pixels of tiles begin + t from the products of their positions: out = result + beta * out.
template <int M, class Exec, class Work, class Out>
void winograd_transform_products(Exec const& exec, TileGrid const& grid, Planes<Work> const& planes,
                                 index_t begin, index_t tiles, double beta, Out const& out) {
  using A = value_t<Work>;
  using Transform = Winograd<M>;
  constexpr int k_tile = Transform::k_tile;
  constexpr int k_width = k_lanes<Exec, A>;
  const auto channels = static_cast<index_t>(out.extent(3));
  const A factor = static_cast<A>(beta);
  Kokkos::parallel_for(
      "sdp::kernels::convolution_transform_products", row_policy(exec, tiles),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        using Lane = Lanes<A, k_width>;
        const index_t tile = begin + team.league_rank();
        const index_t image = tile / (grid.rows * grid.cols);
        const index_t top = tile / grid.cols % grid.rows * M;
        const index_t left = tile % grid.cols * M;
        const index_t height = grid.height, width = grid.width, stride = channels;
        const index_t plane = planes.stride;
        const A old = factor;
        A const* from = planes.data + team.league_rank() * planes.cols;
        A* const all = out.data();
        A* to = all + image * height * width * stride;
        const index_t ahead = next_tile<M>(grid, tile, 0);
        const auto transform = [=](index_t source, index_t target, auto count) {
          for (int i = 0; i < M; ++i)
            for (int j = 0; j < M; ++j)
              prefetch<Exec, true>(all, (ahead + i * width + j) * stride + target);
          Lane partial[M][k_tile];
          for (int j = 0; j < k_tile; ++j) {
            Lane product[k_tile], column[M];
            for (int i = 0; i < k_tile; ++i)
              product[i] = load_lanes<k_width>(from + (i * k_tile + j) * plane + source, count);
            Transform::template output<A>(product, column);
            for (int i = 0; i < M; ++i) partial[i][j] = column[i];
          }
          for (int i = 0; i < M; ++i) {
            Lane row[M];
            Transform::template output<A>(partial[i], row);
            for (int j = 0; j < M; ++j) {
              const index_t h = top + i, w = left + j;
              if (h >= height || w >= width) continue;
              A* pixel = to + (h * width + w) * stride + target;
              if (old != A(0)) row[j] += old * load_lanes<k_width>(pixel, count);
              store_lanes<k_width>(row[j], pixel, count);
            }
          }
        };
        for_lane_groups<k_width>(team, AllChannels{}, stride, transform);
      });
}

/// planes(position)(c, d) = transformed 3x3 weights from channel c to channel d; Flip turns them by
/// 180 degrees, for the gradient with respect to the input.
template <int M, bool Flip, class Exec, class W, class Work>
void winograd_transform_weight(Exec const& exec, ChannelStrides strides, W const& weight,
                               Planes<Work> const& planes) {
  using A = value_t<Work>;
  using Transform = Winograd<M>;
  constexpr int k_tile = Transform::k_tile;
  constexpr int k_width = k_lanes<Exec, A>;
  Kokkos::parallel_for(
      "sdp::kernels::convolution_transform_weight", row_policy(exec, planes.rows),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        using Lane = Lanes<A, k_width>;
        const index_t stride = strides.to, plane = planes.stride;
        A const* from = weight.data() + team.league_rank() * strides.from;
        A* to = planes.data + team.league_rank() * planes.cols;
        const auto transform = [=](index_t source, index_t target, auto count) {
          A taps[9][k_width] = {};
          for (int lane = 0; lane < count; ++lane) {
            A const* pair = from + (source + lane) * stride;
            for (int t = 0; t < 9; ++t) taps[Flip ? 8 - t : t][lane] = pair[t];
          }
          Lane partial[k_tile][3];
          for (int j = 0; j < 3; ++j) {
            Lane tap[3], column[k_tile];
            for (int i = 0; i < 3; ++i) memcpy(&tap[i], taps[3 * i + j], sizeof(Lane));
            Transform::template filter<A>(tap, column);
            for (int i = 0; i < k_tile; ++i) partial[i][j] = column[i];
          }
          for (int i = 0; i < k_tile; ++i) {
            Lane row[k_tile];
            Transform::template filter<A>(partial[i], row);
            for (int j = 0; j < k_tile; ++j)
              store_lanes<k_width>(row[j], to + (i * k_tile + j) * plane + target, count);
          }
        };
        for_lane_groups<k_width>(team, AllChannels{}, planes.cols, transform);
      });
}

/// d_weight += the gradient of transformed weights (c, d), taken back to the 3x3 weights and turned
/// by 180 degrees where Flip.
template <int M, bool Flip, class Exec, class Work, class DW>
void winograd_transform_gradient(Exec const& exec, ChannelStrides strides,
                                 Planes<Work> const& planes, DW const& d_weight) {
  using A = value_t<Work>;
  using Transform = Winograd<M>;
  constexpr int k_tile = Transform::k_tile;
  constexpr int k_width = k_lanes<Exec, A>;
  Kokkos::parallel_for(
      "sdp::kernels::convolution_transform_gradient", row_policy(exec, planes.rows),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        using Lane = Lanes<A, k_width>;
        const index_t stride = strides.to, plane = planes.stride;
        A const* from = planes.data + team.league_rank() * planes.cols;
        A* to = d_weight.data() + team.league_rank() * strides.from;
        const auto transform = [=](index_t source, index_t target, auto count) {
          Lane partial[3][k_tile];
          for (int j = 0; j < k_tile; ++j) {
            Lane product[k_tile], column[3];
            for (int i = 0; i < k_tile; ++i)
              product[i] = load_lanes<k_width>(from + (i * k_tile + j) * plane + source, count);
            Transform::template filter_adjoint<A>(product, column);
            for (int i = 0; i < 3; ++i) partial[i][j] = column[i];
          }
          A taps[9][k_width];
          for (int i = 0; i < 3; ++i) {
            Lane row[3];
            Transform::template filter_adjoint<A>(partial[i], row);
            for (int j = 0; j < 3; ++j)
              memcpy(taps[Flip ? 8 - (3 * i + j) : 3 * i + j], &row[j], sizeof(Lane));
          }
          for (int lane = 0; lane < count; ++lane) {
            A* pair = to + (target + lane) * stride;
            for (int t = 0; t < 9; ++t) pair[t] += taps[t][lane];
          }
        };
        for_lane_groups<k_width>(team, AllChannels{}, planes.cols, transform);
      });
}

}  // namespace sdp::kernels::Details
