// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "kernels/core/lanes.hpp"
#include "kernels/nn/channel_runs.hpp"
#include "kernels/nn/convolution_taps.hpp"

// Convolution on the host straight from the images: tiles of a few pixels and a few vectors of
// channels are summed in registers, so that no taps are gathered and then packed once more by the
// BLAS, which costs as much as the product where one side has few channels. Weights lie in panels
// as wide as a tile, padded by zeros:
//
//   panel(to / width)(tap * from channels + from channel, to % width)
//
// A pixel outside of the image is one of zeros.

namespace sdp::kernels::Details {

/// A tile in registers: vectors of channels, and the pixels (or channels) that they belong to.
template <class Exec, class T>
struct DirectTile {
  static constexpr int k_lanes = Details::k_lanes<Exec, T>;
  static constexpr int k_vectors = 2;
  static constexpr int k_width = k_vectors * k_lanes;
  static constexpr int k_pixels = k_simd_bytes == 64 ? 12 : 6;
  static constexpr int k_channels = k_simd_bytes == 64 ? 8 : 6;
};

/// Whether sums of T in registers stand for products of gathered taps: on a host whose compiler
/// has vectors.
template <class Exec, class T>
inline constexpr bool k_direct = k_is_host<Exec>&& std::is_floating_point_v<T> &&
                                 (k_lanes<Exec, T>) > 1;

template <class Exec, class T>
index_t direct_panels(index_t channels) {
  constexpr index_t k_width = DirectTile<Exec, T>::k_width;
  return (channels + k_width - 1) / k_width;
}

/// Whether that is faster than gathered taps: pixels have whole vectors of channels to sum over,
/// and panels few columns of padding.
template <class Exec, class T>
bool direct_pays(index_t from, index_t to) {
  if constexpr (!k_direct<Exec, T>) return false;
  constexpr index_t k_least = 8;
  return from >= k_least && 4 * to >= 3 * direct_panels<Exec, T>(to) * DirectTile<Exec, T>::k_width;
}

/// Most pixels that are worked on together for a weight gradient.
inline constexpr index_t k_direct_pixels = 128;

/// Pixels of an image that a grid of pixels writes to: row `step` * (its row) + row, and so on.
struct GridTarget {
  index_t height;
  index_t width;
  int step;
  int row;
  int col;
};

/// Elements of the weights in panels, and of the pixel of zeros behind them.
template <class Exec, class T>
index_t direct_workspace(index_t taps, index_t from, index_t to) {
  return direct_panels<Exec, T>(to) * DirectTile<Exec, T>::k_width * taps * from + from;
}

/// The weights of the grid's taps in panels, and zeros behind them; strides are those of the
/// channel axes in the weight.
template <class Exec, class W, class T>
void pack_panels(Exec const& exec, TapGrid const& grid, int kernel, ChannelStrides strides,
                 W const& weight, index_t from, index_t to, T* panels) {
  constexpr index_t k_width = DirectTile<Exec, T>::k_width;
  const index_t count = direct_panels<Exec, T>(to), depth = grid.taps() * from;
  T* const zeros = panels + count * depth * k_width;
  auto const* source = weight.data();
  Kokkos::parallel_for(
      "sdp::kernels::convolution_pack_panels", element_policy(exec, from), [=](index_t c) {
        zeros[c] = T(0);
        for (index_t panel = 0; panel < count; ++panel) {
          const index_t first = panel * k_width;
          const index_t held = to - first < k_width ? to - first : k_width;
          for (int i = 0; i < grid.rows.count; ++i)
            for (int j = 0; j < grid.cols.count; ++j) {
              auto const* pair = source + c * strides.from + first * strides.to +
                                 grid.rows.tap[i] * kernel + grid.cols.tap[j];
              T* target = panels + (panel * depth + (i * grid.cols.count + j) * from + c) * k_width;
              for (index_t d = 0; d < held; ++d) target[d] = pair[d * strides.to];
              for (index_t d = held; d < k_width; ++d) target[d] = T(0);
            }
        }
      });
}

/// The pixels of a tile: what lies under the middle of the kernel, and where results go.
template <class Exec, class T>
struct DirectPixels {
  static constexpr int k_pixels = DirectTile<Exec, T>::k_pixels;

  index_t row[k_pixels];
  index_t col[k_pixels];
  T const* image[k_pixels];
  T* result[k_pixels];

  /// Pixels of the grid from `first` on, but none from `end` on: those are copies of the first.
  void set(TapGrid const& grid, GridTarget const& target, index_t first, index_t end,
           T const* source, index_t from, T* out, index_t to) {
    for (int r = 0; r < k_pixels; ++r) {
      const index_t pixel = first + r < end ? first + r : first;
      const index_t n = pixel / (grid.height * grid.width);
      const index_t p = pixel / grid.width % grid.height, q = pixel % grid.width;
      row[r] = p * grid.step;
      col[r] = q * grid.step;
      image[r] = source + n * grid.source_height * grid.source_width * from;
      const index_t h = p * target.step + target.row, w = q * target.step + target.col;
      result[r] = out + ((n * target.height + h) * target.width + w) * to;
    }
  }

  /// The pixels of one tap.
  void taps(TapGrid const& grid, int up, int left, index_t from, T const* zeros,
            T const* (&tap)[k_pixels]) const {
    for (int r = 0; r < k_pixels; ++r) {
      const index_t h = row[r] + up, w = col[r] + left;
      const bool inside = h >= 0 && h < grid.source_height && w >= 0 && w < grid.source_width;
      tap[r] = inside ? image[r] + (h * grid.source_width + w) * from : zeros;
    }
  }
};

/// sums[r][v] += source[r][c] * panel(c, v) over all channels c, while the same channels of `next`
/// come into the cache.
template <class Exec, class Tile, class T, class Lane>
[[gnu::always_inline]] inline void add_tap(T const* const (&source)[Tile::k_pixels],
                                           T const* const (&next)[Tile::k_pixels], T const* panel,
                                           index_t channels,
                                           Lane (&sums)[Tile::k_pixels][Tile::k_vectors]) {
  constexpr index_t k_line = 64 / sizeof(T);
  for (index_t begin = 0; begin < channels; begin += k_line) {
    const index_t end = begin + k_line < channels ? begin + k_line : channels;
    for (int r = 0; r < Tile::k_pixels; ++r) prefetch<Exec>(next[r], begin);
    for (index_t c = begin; c < end; ++c) {
      Lane weights[Tile::k_vectors];
      for (int v = 0; v < Tile::k_vectors; ++v)
        weights[v] = load_lanes<Tile::k_lanes>(panel + c * Tile::k_width + v * Tile::k_lanes,
                                               FixedCount<Tile::k_lanes>());
      SDP_UNROLL(16)
      for (int r = 0; r < Tile::k_pixels; ++r) {
        SDP_UNROLL(4)
        for (int v = 0; v < Tile::k_vectors; ++v) sums[r][v] += source[r][c] * weights[v];
      }
    }
  }
}

/// out = the products of the taps of each pixel of the grid with the weights + beta * out, where
/// `target` says which pixels of out those are; every sum in the order (tap, channel).
template <class Exec, class X, class T, class Out>
void direct_product(Exec const& exec, TapGrid const& grid, X const& x, T const* panels,
                    GridTarget const& target, double beta, Out const& out) {
  using Tile = DirectTile<Exec, T>;
  using Lane = Lanes<T, Tile::k_lanes>;
  constexpr index_t k_block = 8 * Tile::k_pixels;
  const auto images = static_cast<index_t>(x.extent(0)), from = static_cast<index_t>(x.extent(3));
  const auto to = static_cast<index_t>(out.extent(3));
  const index_t pixels = images * grid.height * grid.width;
  const index_t depth = grid.taps() * from, count = direct_panels<Exec, T>(to);
  T const* const zeros = panels + count * depth * Tile::k_width;
  T const* const source = x.data();
  T* const result = out.data();
  const T factor = static_cast<T>(beta);
  Kokkos::parallel_for(
      "sdp::kernels::convolution_direct", element_policy(exec, (pixels + k_block - 1) / k_block),
      [=](index_t block) {
        const index_t begin = block * k_block;
        const index_t end = begin + k_block < pixels ? begin + k_block : pixels;
        DirectPixels<Exec, T> here, next;
        here.set(grid, target, begin, end, source, from, result, to);
        for (index_t panel = 0; panel < count; ++panel)
          for (index_t first = begin; first < end; first += Tile::k_pixels) {
            const index_t after = first + Tile::k_pixels;
            if (after < end)
              next.set(grid, target, after, end, source, from, result, to);
            else if (panel + 1 < count)
              next.set(grid, target, begin, end, source, from, result, to);
            else
              next.set(grid, target, end < pixels ? end : begin, pixels, source, from, result, to);
            const index_t column = panel * Tile::k_width;
            for (int r = 0; r < Tile::k_pixels; ++r)
              for (int v = 0; v < Tile::k_vectors; ++v)
                prefetch<Exec, true>(next.result[r], column + v * Tile::k_lanes);
            Lane sums[Tile::k_pixels][Tile::k_vectors] = {};
            T const* weights = panels + panel * depth * Tile::k_width;
            for (int i = 0; i < grid.rows.count; ++i)
              for (int j = 0; j < grid.cols.count; ++j) {
                T const *tap[Tile::k_pixels], *next_tap[Tile::k_pixels];
                here.taps(grid, grid.rows.from[i], grid.cols.from[j], from, zeros, tap);
                next.taps(grid, grid.rows.from[i], grid.cols.from[j], from, zeros, next_tap);
                add_tap<Exec, Tile>(tap, next_tap, weights, from, sums);
                weights += from * Tile::k_width;
              }
            const auto store = [&](int r, int v, auto lanes) {
              T* const at = here.result[r] + column + v * Tile::k_lanes;
              Lane sum = sums[r][v];
              if (factor != T(0)) sum += factor * load_lanes<Tile::k_lanes>(at, lanes);
              store_lanes<Tile::k_lanes>(sum, at, lanes);
            };
            const index_t held = end - first, rest = to - column;
            if (held >= Tile::k_pixels && rest >= Tile::k_width) {
              SDP_UNROLL(16)
              for (int r = 0; r < Tile::k_pixels; ++r) {
                SDP_UNROLL(4)
                for (int v = 0; v < Tile::k_vectors; ++v) store(r, v, FixedCount<Tile::k_lanes>());
              }
            } else {
              for (int r = 0; r < Tile::k_pixels && r < held; ++r)
                for (int v = 0; v < Tile::k_vectors && v * Tile::k_lanes < rest; ++v) {
                  const index_t lanes = rest - v * Tile::k_lanes;
                  store(r, v, static_cast<int>(lanes < Tile::k_lanes ? lanes : Tile::k_lanes));
                }
            }
            here = next;
          }
      });
}

/// gradient(tap * from + c, d) = the sum of the tap times d_out over the first `pixels` rows of
/// d_out, which are pixels of the grid from `begin` on, in their order; added to what it holds
/// unless begin = 0. At most k_direct_pixels, so that they stay in the cache.
template <class Exec, class X, class T, class Gradient>
void direct_weight_gradient(Exec const& exec, TapGrid const& grid, X const& x, T const* d_out,
                            index_t begin, index_t pixels, T const* zeros,
                            Gradient const& gradient) {
  using Tile = DirectTile<Exec, T>;
  using Lane = Lanes<T, Tile::k_lanes>;
  constexpr index_t k_chunk = 64;
  const auto from = static_cast<index_t>(x.extent(3));
  const auto to = static_cast<index_t>(gradient.extent(1));
  const index_t chunks = (from + k_chunk - 1) / k_chunk;
  T const* const source = x.data();
  T* const result = gradient.data();
  Kokkos::parallel_for(
      "sdp::kernels::convolution_direct_weight", element_policy(exec, grid.taps() * chunks),
      [=](index_t task) {
        const index_t tap = task / chunks, c_begin = task % chunks * k_chunk;
        const index_t c_end = c_begin + k_chunk < from ? c_begin + k_chunk : from;
        const int up = grid.rows.from[tap / grid.cols.count];
        const int left = grid.cols.from[tap % grid.cols.count];
        T const* pixel_of[k_direct_pixels];
        for (index_t b = 0; b < pixels; ++b) {
          const index_t pixel = begin + b, n = pixel / (grid.height * grid.width);
          const index_t h = pixel / grid.width % grid.height * grid.step + up;
          const index_t w = pixel % grid.width * grid.step + left;
          const bool inside = h >= 0 && h < grid.source_height && w >= 0 && w < grid.source_width;
          pixel_of[b] = inside
                            ? source + ((n * grid.source_height + h) * grid.source_width + w) * from
                            : zeros;
        }
        const auto tile = [&](index_t c, index_t d, auto channels, auto vectors, auto lanes) {
          constexpr int k_rows = decltype(channels)(), k_vectors = decltype(vectors)();
          Lane sums[k_rows][k_vectors] = {};
          for (index_t b = 0; b < pixels; ++b) {
            T const* const value = pixel_of[b] + c;
            Lane row[k_vectors];
            for (int v = 0; v < k_vectors; ++v)
              row[v] = load_lanes<Tile::k_lanes>(d_out + b * to + d + v * Tile::k_lanes, lanes);
            SDP_UNROLL(16)
            for (int r = 0; r < k_rows; ++r) {
              SDP_UNROLL(4)
              for (int v = 0; v < k_vectors; ++v) sums[r][v] += value[r] * row[v];
            }
          }
          SDP_UNROLL(16)
          for (int r = 0; r < k_rows; ++r) {
            SDP_UNROLL(4)
            for (int v = 0; v < k_vectors; ++v) {
              T* const at = result + (tap * from + c + r) * to + d + v * Tile::k_lanes;
              if (begin > 0) sums[r][v] += load_lanes<Tile::k_lanes>(at, lanes);
              store_lanes<Tile::k_lanes>(sums[r][v], at, lanes);
            }
          }
        };
        const auto tiles = [&](index_t c, auto channels) {
          constexpr FixedCount<Tile::k_lanes> k_whole;
          index_t d = 0;
          for (; d + Tile::k_width <= to; d += Tile::k_width)
            tile(c, d, channels, FixedCount<Tile::k_vectors>(), k_whole);
          for (; d + Tile::k_lanes <= to; d += Tile::k_lanes)
            tile(c, d, channels, FixedCount<1>(), k_whole);
          if (d < to) tile(c, d, channels, FixedCount<1>(), static_cast<int>(to - d));
        };
        index_t c = c_begin;
        for (; c + Tile::k_channels <= c_end; c += Tile::k_channels)
          tiles(c, FixedCount<Tile::k_channels>());
        for (; c < c_end; ++c) tiles(c, FixedCount<1>());
      });
}

}  // namespace sdp::kernels::Details
