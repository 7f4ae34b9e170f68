// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/nn/winograd_tiles.hpp"

// 3x3 convolution of stride 1 by Winograd's algorithm over blocks of tiles. A tile is M x M outputs
// and the (M+2) x (M+2) inputs under them; transformed, it has (M+2)^2 positions, and for each
// position the channels are one matrix product:
//
//   images (tiles, from channels) * weights (from, to) = products (tiles, to)
//
// Planes of positions are a little more than a block apart, so that the stores of one tile do not
// all meet in one set of the cache.

namespace sdp::kernels::Details {

/// Sizes of the workspace of one Winograd convolution.
template <class Exec, int M>
struct WinogradPlan {
  static constexpr int k_positions = Winograd<M>::k_tile * Winograd<M>::k_tile;

  /// With `both` gradients are formed together.
  explicit WinogradPlan(ConvolutionShape const& s, bool both = false)
      : grid(tile_grid(s, M)), tiles(s.images * grid.rows * grid.cols) {
    const index_t inputs = std::max<index_t>(s.inputs, 1),
                  outputs = std::max<index_t>(s.outputs, 1);
    const index_t sides = both ? 2 : 1;  // weights and their gradient; inputs and theirs
    block = std::min(tiles, block_tiles(inputs * outputs, outputs + sides * inputs));
    workspace = k_positions *
                (sides * (plane_stride(s.inputs * s.outputs) + plane_stride(block * s.inputs)) +
                 plane_stride(block * s.outputs));
  }

  /// Whether gradients had better be formed together: transformed weights take less than what is
  /// saved, the images of a transformed gradient.
  static bool pays_both(ConvolutionShape const& s) {
    const auto grid = tile_grid(s, M);
    return s.images * grid.rows * grid.cols >= s.inputs;
  }

  /// Tiles in a block whose planes have `columns` in all. On the host as many as keep products with
  /// `pairs` of channels small enough for the BLAS to multiply them without packing, while planes
  /// stay in the second cache level; where channels are too many for that, as many as make packing
  /// cheap.
  static index_t block_tiles(index_t pairs, index_t columns) {
    if constexpr (!k_is_host<Exec>) {
      return std::max<index_t>(64, (index_t(1) << 25) / (k_positions * columns));
    } else {
      constexpr index_t k_unpacked = 1000000, k_elements = index_t(1) << 17;
      constexpr index_t k_step = 16, k_least = 2 * k_step, k_packed = 128;
      const index_t unpacked = k_unpacked / pairs;
      if (unpacked < k_least) return k_packed;
      const index_t fitting = k_elements / (k_positions * columns);
      return std::clamp(fitting, k_least, unpacked) / k_step * k_step;
    }
  }

  /// The planes that begin at `next`, which moves behind them.
  template <class Work>
  static Planes<Work> planes(value_t<Work>*& next, index_t rows, index_t cols) {
    const Planes<Work> result{next, rows, cols, plane_stride(rows * cols)};
    next += k_positions * result.stride;
    return result;
  }

  TileGrid grid;
  index_t tiles;
  index_t block;      ///< tiles that are worked on together
  index_t workspace;  ///< elements
};

template <class Exec, int M>
index_t winograd_workspace(ConvolutionShape const& s) {
  using Plan = WinogradPlan<Exec, M>;
  return std::max(Plan(s).workspace, Plan::pays_both(s) ? Plan(s, true).workspace : 0);
}

/// out = x convolved with the weight (turned by 180 degrees where Flip) + beta * out; strides are
/// those of the weight's channels of x and of out.
template <int M, bool Flip, class Exec, class X, class W, class Work, class Out>
void winograd_convolution(Exec const& exec, ConvolutionShape const& s, ChannelStrides strides,
                          X const& x, W const& weight, Work const& workspace, double beta,
                          Out const& out) {
  const WinogradPlan<Exec, M> plan(s);
  const auto from = static_cast<index_t>(x.extent(3));
  const auto to = static_cast<index_t>(out.extent(3));
  auto* next = workspace.data();
  const auto weights = plan.template planes<Work>(next, from, to);
  const auto inputs = plan.template planes<Work>(next, plan.block, from);
  const auto products = plan.template planes<Work>(next, plan.block, to);
  winograd_transform_weight<M, Flip>(exec, strides, weight, weights);
  for_each_block(plan.tiles, plan.block, [&](index_t begin, index_t count) {
    winograd_transform_images<M, false>(exec, plan.grid, AllChannels{}, x, begin, count, inputs);
    for (int i = 0; i < plan.k_positions; ++i)
      gemm(exec, Transpose::no, Transpose::no, 1.0, inputs.matrix(i, count), weights.matrix(i), 0.0,
           products.matrix(i, count));
    winograd_transform_products<M>(exec, plan.grid, products, begin, count, beta, out);
  });
}

template <int M, class Exec, class X, class DOut, class Runs, class Work, class DW>
void winograd_backward_weight(Exec const& exec, ConvolutionShape const& s, WeightLayout layout,
                              X const& x, DOut const& d_out, Runs const& channels,
                              Work const& workspace, DW const& d_weight) {
  const WinogradPlan<Exec, M> plan(s);
  const bool out_in = layout == WeightLayout::out_in;
  ConvolutionShape held = s;
  (out_in ? held.outputs : held.inputs) = static_cast<index_t>(d_weight.extent(0));
  auto* next = workspace.data();
  const auto gradient = plan.template planes<Work>(next, held.inputs, held.outputs);
  const auto inputs = plan.template planes<Work>(next, plan.block, held.inputs);
  const auto outputs = plan.template planes<Work>(next, plan.block, held.outputs);
  for_each_block(plan.tiles, plan.block, [&](index_t begin, index_t count) {
    if (out_in) {
      winograd_transform_images<M, false>(exec, plan.grid, AllChannels{}, x, begin, count, inputs);
      winograd_transform_images<M, true>(exec, plan.grid, channels, d_out, begin, count, outputs);
    } else {
      winograd_transform_images<M, false>(exec, plan.grid, channels, x, begin, count, inputs);
      winograd_transform_images<M, true>(exec, plan.grid, AllChannels{}, d_out, begin, count,
                                         outputs);
    }
    for (int i = 0; i < plan.k_positions; ++i)
      gemm(exec, Transpose::yes, Transpose::no, 1.0, inputs.matrix(i, count),
           outputs.matrix(i, count), begin == 0 ? 0.0 : 1.0, gradient.matrix(i));
  });
  winograd_transform_gradient<M, false>(exec, weight_strides(held, layout), gradient, d_weight);
}

/// Both gradients, for which d_out is transformed once: correlating d_out with x gives the weight
/// gradient turned by 180 degrees, with d_out in the place of the inputs.
template <int M, class Exec, class X, class DOut, class W, class Runs, class Work, class DW,
          class DX>
void winograd_backward(Exec const& exec, ConvolutionShape const& s, WeightLayout layout, X const& x,
                       DOut const& d_out, W const& weight, Runs const& channels,
                       Work const& workspace, DW const& d_weight, double beta, DX const& d_x) {
  const WinogradPlan<Exec, M> plan(s, true);
  ConvolutionShape held = s;
  if (layout == WeightLayout::in_out) held.inputs = static_cast<index_t>(d_weight.extent(0));
  const auto strides = weight_strides(s, layout);
  auto* next = workspace.data();
  const auto weights = plan.template planes<Work>(next, s.outputs, s.inputs);
  const auto gradient = plan.template planes<Work>(next, held.inputs, s.outputs);
  const auto inputs = plan.template planes<Work>(next, plan.block, held.inputs);
  const auto outputs = plan.template planes<Work>(next, plan.block, s.outputs);
  const auto products = plan.template planes<Work>(next, plan.block, s.inputs);
  winograd_transform_weight<M, true>(exec, {strides.to, strides.from}, weight, weights);
  for_each_block(plan.tiles, plan.block, [&](index_t begin, index_t count) {
    winograd_transform_images<M, false>(exec, plan.grid, AllChannels{}, d_out, begin, count,
                                        outputs);
    winograd_transform_images<M, true>(exec, plan.grid, channels, x, begin, count, inputs);
    for (int i = 0; i < plan.k_positions; ++i) {
      gemm(exec, Transpose::no, Transpose::no, 1.0, outputs.matrix(i, count), weights.matrix(i),
           0.0, products.matrix(i, count));
      gemm(exec, Transpose::yes, Transpose::no, 1.0, inputs.matrix(i, count),
           outputs.matrix(i, count), begin == 0 ? 0.0 : 1.0, gradient.matrix(i));
    }
    winograd_transform_products<M>(exec, plan.grid, products, begin, count, beta, d_x);
  });
  winograd_transform_gradient<M, true>(exec, weight_strides(held, layout), gradient, d_weight);
}

}  // namespace sdp::kernels::Details
