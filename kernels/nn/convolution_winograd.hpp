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

  explicit WinogradPlan(ConvolutionShape const& s)
      : grid(tile_grid(s, M)), tiles(s.images * grid.rows * grid.cols) {
    block = std::min(tiles,
                     block_tiles(std::max<index_t>(s.inputs, 1), std::max<index_t>(s.outputs, 1)));
    workspace = k_positions * (plane_stride(s.inputs * s.outputs) + plane_stride(block * s.inputs) +
                               plane_stride(block * s.outputs));
  }

  /// Tiles in a block. On the host as many as keep the products small enough for the BLAS to
  /// multiply them without packing, while planes stay in the second cache level; where channels are
  /// too many for that, as many as make packing cheap.
  static index_t block_tiles(index_t inputs, index_t outputs) {
    if constexpr (!k_is_host<Exec>) {
      return std::max<index_t>(64, (index_t(1) << 25) / (k_positions * (inputs + outputs)));
    } else {
      constexpr index_t k_unpacked = 1000000, k_elements = index_t(1) << 17;
      constexpr index_t k_step = 16, k_least = 2 * k_step, k_packed = 128;
      const index_t unpacked = k_unpacked / (inputs * outputs);
      if (unpacked < k_least) return k_packed;
      const index_t fitting = k_elements / (k_positions * (inputs + outputs));
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
  winograd_transform_gradient<M>(exec, weight_strides(held, layout), gradient, d_weight);
}

}  // namespace sdp::kernels::Details
