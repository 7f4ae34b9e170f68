// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/team.hpp"
#include "kernels/nn/convolution_shape.hpp"

// Which pixels contribute to which under a convolution, and the kernels that gather and scatter
// them and bring weights into the order of gathered taps.

namespace sdp::kernels::Details {

/// What contributes to a pixel along one axis: from[t] pixels after step * (its index), through row
/// or column tap[t] of the kernel.
struct AxisTaps {
  int count = 0;
  int from[k_max_convolution_kernel] = {};
  int tap[k_max_convolution_kernel] = {};

  /// Whether the taps are neighbouring pixels in rising order, and so contiguous in memory.
  KOKKOS_INLINE_FUNCTION bool adjacent() const {
    return count > 0 && from[count - 1] - from[0] == count - 1 && from[count - 1] >= from[0];
  }

  void add(int from_pixel, int kernel_tap) {
    from[count] = from_pixel;
    tap[count] = kernel_tap;
    ++count;
  }
};

/// A grid of pixels (N, height, width), and the source pixels that contribute to each.
struct TapGrid {
  index_t height;
  index_t width;
  index_t source_height;
  index_t source_width;
  int step;
  AxisTaps rows;
  AxisTaps cols;

  KOKKOS_INLINE_FUNCTION int taps() const { return rows.count * cols.count; }
};

/// Output pixels and the input pixels under the kernel.
inline TapGrid forward_grid(ConvolutionShape const& s) {
  TapGrid grid{s.out_height(), s.out_width(), s.height, s.width, s.stride, {}, {}};
  for (int k = 0; k < s.kernel; ++k) grid.rows.add(k - s.padding(), k);
  grid.cols = grid.rows;
  return grid;
}

/// Input pixels (row, col) modulo the stride, and the output pixels that they contribute to:
/// s*p + k - padding = s*a + row for pixel a of the residue, so p = a + (row + padding - k) / s.
inline TapGrid backward_grid(ConvolutionShape const& s, int row, int col) {
  const auto taps = [&](int residue) {
    AxisTaps axis;
    for (int k = 0; k < s.kernel; ++k)
      if ((residue + s.padding() - k) % s.stride == 0)
        axis.add((residue + s.padding() - k) / s.stride, k);
    return axis;
  };
  const auto size = [&](index_t all, int residue) {
    return all > residue ? (all - residue + s.stride - 1) / s.stride : 0;
  };
  return {size(s.height, row), size(s.width, col), s.out_height(), s.out_width(), 1,
          taps(row),           taps(col)};
}

/// to(run) = from(run) for every run, or all `channels`.
template <class Team, class Runs, class T>
KOKKOS_INLINE_FUNCTION void copy_channels(Team const& team, Runs const& runs, index_t channels,
                                          T const* from, T* to) {
  for_each_run(runs, channels, [=](index_t first, index_t row, index_t count) {
    T const* source = from + first;
    T* target = to + row;
    row_for(team, count, [=](index_t c) { target[c] = source[c]; });
  });
}

/// block(b, t * channels + c) = the pixel of tap t and chosen channel c, zero outside of the image,
/// for pixels begin + b of the grid.
template <class Exec, class Runs, class Source, class Block>
void gather_taps(Exec const& exec, TapGrid const& grid, Runs const& runs, index_t channels,
                 Source const& source, index_t begin, Block const& block) {
  using T = value_t<Block>;
  const auto source_channels = static_cast<index_t>(source.extent(3));
  Kokkos::parallel_for(
      "sdp::kernels::convolution_gather", row_policy(exec, static_cast<index_t>(block.extent(0))),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t pixel = begin + team.league_rank();
        const index_t image = pixel / (grid.height * grid.width);
        const index_t row = pixel / grid.width % grid.height;
        const index_t col = pixel % grid.width;
        const index_t count = channels;
        T const* from =
            source.data() + image * grid.source_height * grid.source_width * source_channels;
        T* to = &block(team.league_rank(), 0);
        const index_t left = col * grid.step + grid.cols.from[0];
        const bool whole_rows = std::is_same_v<Runs, AllChannels> && grid.cols.adjacent() &&
                                left >= 0 && left + grid.cols.count <= grid.source_width;
        for (int i = 0; i < grid.rows.count; ++i) {
          const index_t y = row * grid.step + grid.rows.from[i];
          const bool row_inside = y >= 0 && y < grid.source_height;
          if (whole_rows && row_inside) {
            T const* source_row = from + (y * grid.source_width + left) * source_channels;
            T* target = to;
            row_for(team, grid.cols.count * count, [=](index_t c) { target[c] = source_row[c]; });
            to += grid.cols.count * count;
            continue;
          }
          for (int j = 0; j < grid.cols.count; ++j) {
            const index_t x = col * grid.step + grid.cols.from[j];
            T* target = to;
            if (row_inside && x >= 0 && x < grid.source_width)
              copy_channels(team, runs, count, from + (y * grid.source_width + x) * source_channels,
                            target);
            else
              row_for(team, count, [=](index_t c) { target[c] = T(0.0f); });
            to += count;
          }
        }
      });
}

/// packed(t * from + c, d) = the weight of tap t from channel c to channel d. `strides` are those
/// of the two channel axes in the weight.
struct ChannelStrides {
  index_t from;
  index_t to;
};

template <class Exec, class W, class Packed>
void pack_convolution_weight(Exec const& exec, TapGrid const& grid, int kernel,
                             ChannelStrides strides, W const& weight, index_t from_channels,
                             Packed const& packed) {
  const auto columns = static_cast<index_t>(packed.extent(1));
  Kokkos::parallel_for(
      "sdp::kernels::convolution_pack_weight", row_policy(exec, from_channels),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t c = team.league_rank();
        auto const* from = weight.data() + c * strides.from;
        const index_t stride = strides.to;
        for (int i = 0; i < grid.rows.count; ++i)
          for (int j = 0; j < grid.cols.count; ++j) {
            auto const* source = from + grid.rows.tap[i] * kernel + grid.cols.tap[j];
            auto* to = &packed((i * grid.cols.count + j) * from_channels + c, 0);
            row_for(team, columns, [=](index_t d) { to[d] = source[d * stride]; });
          }
      });
}

/// d_weight += the packed gradient (tap, from channel, to channel).
template <class Exec, class Packed, class DW>
void unpack_weight_gradient(Exec const& exec, ChannelStrides strides, index_t from_channels,
                            Packed const& packed, DW const& d_weight) {
  const auto columns = static_cast<index_t>(packed.extent(1));
  const auto taps = static_cast<index_t>(d_weight.extent(2) * d_weight.extent(3));
  Kokkos::parallel_for(
      "sdp::kernels::convolution_unpack_gradient", row_policy(exec, from_channels),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t c = team.league_rank();
        const index_t stride = strides.to;
        for (index_t t = 0; t < taps; ++t) {
          auto* to = d_weight.data() + c * strides.from + t;
          auto const* from = &packed(t * from_channels + c, 0);
          row_for(team, columns, [=](index_t d) { to[d * stride] += from[d]; });
        }
      });
}

/// Pixels begin + b of the grid of one residue: d_x = result + beta * d_x.
template <class Exec, class Result, class DX>
void scatter_residue(Exec const& exec, ConvolutionShape const& shape, TapGrid const& grid,
                     int row_residue, int col_residue, index_t begin, Result const& result,
                     double beta, DX const& d_x) {
  using T = value_t<DX>;
  using A = accum_t<T>;
  const A factor = static_cast<A>(beta);
  const index_t height = shape.height, width = shape.width, channels = shape.inputs;
  const int stride = shape.stride;
  Kokkos::parallel_for(
      "sdp::kernels::convolution_scatter", row_policy(exec, static_cast<index_t>(result.extent(0))),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t pixel = begin + team.league_rank();
        const index_t image = pixel / (grid.height * grid.width);
        const index_t row = pixel / grid.width % grid.height * stride + row_residue;
        const index_t col = pixel % grid.width * stride + col_residue;
        A const* from = result.data() + team.league_rank() * channels;
        T* to = d_x.data() + ((image * height + row) * width + col) * channels;
        const A keep = factor;
        if (keep == A(0))
          row_for(team, channels, [=](index_t c) { to[c] = static_cast<T>(from[c]); });
        else
          row_for(team, channels, [=](index_t c) {
            to[c] = static_cast<T>(from[c] + keep * static_cast<A>(to[c]));
          });
      });
}

/// Pixels of a residue that no output depends on: d_x *= beta.
template <class Exec, class DX>
void scale_residue(Exec const& exec, ConvolutionShape const& shape, TapGrid const& grid,
                   int row_residue, int col_residue, double beta, DX const& d_x) {
  using T = value_t<DX>;
  using A = accum_t<T>;
  if (beta == 1.0) return;
  const A factor = static_cast<A>(beta);
  const index_t height = shape.height, width = shape.width, channels = shape.inputs;
  const int stride = shape.stride;
  Kokkos::parallel_for(
      "sdp::kernels::convolution_scale", row_policy(exec, shape.images * grid.height * grid.width),
      KOKKOS_LAMBDA(RowMember<Exec> const& team) {
        const index_t pixel = team.league_rank();
        const index_t image = pixel / (grid.height * grid.width);
        const index_t row = pixel / grid.width % grid.height * stride + row_residue;
        const index_t col = pixel % grid.width * stride + col_residue;
        const A keep = factor;
        T* to = d_x.data() + ((image * height + row) * width + col) * channels;
        if (keep == A(0))
          row_for(team, channels, [=](index_t c) { to[c] = T(0.0f); });
        else
          row_for(team, channels,
                  [=](index_t c) { to[c] = static_cast<T>(keep * static_cast<A>(to[c])); });
      });
}

}  // namespace sdp::kernels::Details
