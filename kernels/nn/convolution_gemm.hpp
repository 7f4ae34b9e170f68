// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "kernels/blas/gemm.hpp"
#include "kernels/nn/convolution_direct.hpp"
#include "kernels/nn/convolution_taps.hpp"

// Convolution as matrix products over blocks of pixels (implicit GEMM): the taps of a block are
// gathered next to each other in the workspace and multiplied with the weights, which are brought
// into the order (tap, from channel, to channel) once per call. The gradient with respect to the
// input of a strided convolution is one such product for each residue of the pixel modulo the
// stride, so no product with zero is formed. Weight gradients, and what is added to something
// elsewhere, leave the products in accum_t. On hosts convolution_direct.hpp takes over where there
// are channels enough.

namespace sdp::kernels::Details {

/// Elements of a block of gathered taps: on the host it stays in the second cache level, unless so
/// few pixels fit that the BLAS would pack the weights too often.
template <class Exec>
inline constexpr index_t k_convolution_block = k_is_host<Exec> ? (index_t(1) << 17)
                                                               : (index_t(1) << 24);

/// Pixels in a block whose rows have `depth` elements.
template <class Exec>
index_t block_pixels(index_t pixels, index_t depth) {
  constexpr index_t k_least = 128;
  const index_t fitting = k_convolution_block<Exec> / std::max<index_t>(depth, 1);
  return std::min(pixels, std::max(fitting, k_least));
}

/// A matrix in memory that the caller owns.
template <class V>
using UnmanagedMatrix = Kokkos::View<value_t<V>**, Kokkos::LayoutRight, typename V::device_type,
                                     Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

/// Elements of T in the memory of one that sums of T have.
template <class T>
inline constexpr index_t k_accum_elements = sizeof(accum_t<T>) / sizeof(T);

/// Hands out consecutive matrices of a workspace. Matrices of sums come before all others, so that
/// they are aligned.
template <class Work>
class Carver {
 public:
  using Accum = accum_t<value_t<Work>>;
  using SumMatrix = Kokkos::View<Accum**, Kokkos::LayoutRight, typename Work::device_type,
                                 Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

  explicit Carver(Work const& workspace) : m_next(workspace.data()) {}

  SumMatrix sums(index_t rows, index_t cols) {
    SumMatrix view(reinterpret_cast<Accum*>(m_next), rows, cols);
    m_next += k_accum_elements<value_t<Work>> * rows * cols;
    return view;
  }
  UnmanagedMatrix<Work> matrix(index_t rows, index_t cols) {
    UnmanagedMatrix<Work> view(m_next, rows, cols);
    m_next += rows * cols;
    return view;
  }

 private:
  value_t<Work>* m_next;
};

template <class V>
auto first_rows(V const& view, index_t rows) {
  return UnmanagedMatrix<V>(view.data(), rows, view.extent(1));
}

template <class V>
auto matrix_at(V const& images, index_t pixel, index_t pixels) {
  using T = typename V::value_type;
  const auto channels = static_cast<index_t>(images.extent(3));
  return Kokkos::View<T**, Kokkos::LayoutRight, typename V::device_type,
                      Kokkos::MemoryTraits<Kokkos::Unmanaged>>(images.data() + pixel * channels,
                                                               pixels, channels);
}

/// f(first pixel, pixels) for every block of a grid of `pixels`.
template <class F>
void for_each_block(index_t pixels, index_t block, F const& f) {
  for (index_t begin = 0; begin < pixels; begin += block) f(begin, std::min(block, pixels - begin));
}

template <class Exec, class T>
index_t gemm_convolution_workspace(ConvolutionShape const& s) {
  constexpr index_t k_sum = k_accum_elements<T>;
  index_t weights = s.taps() * s.inputs * s.outputs;
  const auto block = [&](index_t pixels, index_t channels, index_t beside) {
    const index_t depth = s.taps() * channels;
    return block_pixels<Exec>(pixels, depth) * (depth + beside);
  };
  // A residue has fewer taps than the kernel, and so more pixels in a block.
  index_t backward_input = 0;
  for (int row = 0; row < s.stride; ++row)
    for (int col = 0; col < s.stride; ++col) {
      const auto grid = backward_grid(s, row, col);
      const index_t depth = grid.taps() * s.outputs;
      backward_input =
          std::max(backward_input, block_pixels<Exec>(s.images * grid.height * grid.width, depth) *
                                       (depth + k_sum * s.inputs));
    }
  if constexpr (k_direct<Exec, T>)
    weights = std::max(direct_workspace<Exec, T>(s.taps(), s.inputs, s.outputs),
                       direct_workspace<Exec, T>(s.taps(), s.outputs, s.inputs));
  return std::max({weights + block(s.out_pixels(), s.inputs, 0), weights + backward_input,
                   k_sum * weights + block(s.out_pixels(), s.inputs, s.outputs)});
}

inline ChannelStrides weight_strides(ConvolutionShape const& s, WeightLayout layout) {
  // of (input, output) channels
  return layout == WeightLayout::out_in ? ChannelStrides{s.taps(), s.inputs * s.taps()}
                                        : ChannelStrides{s.outputs * s.taps(), s.taps()};
}

template <class Exec, class X, class W, class Work, class Out>
void gemm_convolution_forward(Exec const& exec, ConvolutionShape const& s, WeightLayout layout,
                              X const& x, W const& weight, Work const& workspace, Out const& out) {
  const auto grid = forward_grid(s);
  if constexpr (k_direct<Exec, value_t<Out>>) {
    if (direct_pays<Exec, value_t<Out>>(s.inputs, s.outputs)) {
      pack_panels(exec, grid, s.kernel, weight_strides(s, layout), weight, s.inputs, s.outputs,
                  workspace.data());
      return direct_product(exec, grid, x, workspace.data(), {grid.height, grid.width, 1, 0, 0},
                            0.0, out);
    }
  }
  const index_t depth = s.taps() * s.inputs;
  Carver<Work> carve(workspace);
  const auto packed = carve.matrix(depth, s.outputs);
  pack_convolution_weight(exec, grid, s.kernel, weight_strides(s, layout), weight, s.inputs,
                          packed);
  if (s.kernel == 1 && s.stride == 1)
    return gemm(exec, Transpose::no, Transpose::no, 1.0, pixel_rows(x), packed, 0.0,
                pixel_rows(out));
  const index_t pixels = s.out_pixels();
  const index_t block = block_pixels<Exec>(pixels, depth);
  const auto taps = carve.matrix(block, depth);
  for_each_block(pixels, block, [&](index_t begin, index_t count) {
    const auto gathered = first_rows(taps, count);
    gather_taps(exec, grid, AllChannels{}, s.inputs, x, begin, gathered);
    gemm(exec, Transpose::no, Transpose::no, 1.0, gathered, packed, 0.0,
         matrix_at(out, begin, count));
  });
}

template <class Exec, class DOut, class W, class Work, class DX>
void gemm_convolution_backward_input(Exec const& exec, ConvolutionShape const& s,
                                     WeightLayout layout, DOut const& d_out, W const& weight,
                                     Work const& workspace, DX const& d_x, double beta) {
  const auto forward_strides = weight_strides(s, layout);
  const ChannelStrides strides{forward_strides.to, forward_strides.from};
  for (int row = 0; row < s.stride; ++row)
    for (int col = 0; col < s.stride; ++col) {
      const auto grid = backward_grid(s, row, col);
      const index_t pixels = s.images * grid.height * grid.width;
      if (pixels == 0) continue;
      if (grid.taps() == 0) {
        scale_residue(exec, s, grid, row, col, beta, d_x);
        continue;
      }
      if constexpr (k_direct<Exec, value_t<DX>>) {
        if (direct_pays<Exec, value_t<DX>>(s.outputs, s.inputs)) {
          pack_panels(exec, grid, s.kernel, strides, weight, s.outputs, s.inputs, workspace.data());
          direct_product(exec, grid, d_out, workspace.data(),
                         {s.height, s.width, s.stride, row, col}, beta, d_x);
          continue;
        }
      }
      const index_t depth = grid.taps() * s.outputs;
      const index_t block = block_pixels<Exec>(pixels, depth);
      Carver<Work> carve(workspace);
      const auto results = carve.sums(block, s.inputs);
      const auto packed = carve.matrix(depth, s.inputs);
      pack_convolution_weight(exec, grid, s.kernel, strides, weight, s.outputs, packed);
      const auto taps = carve.matrix(block, depth);
      for_each_block(pixels, block, [&](index_t begin, index_t count) {
        const auto gathered = first_rows(taps, count);
        if (s.kernel == 1 && s.stride == 1) {
          return gemm(exec, Transpose::no, Transpose::no, 1.0, matrix_at(d_out, begin, count),
                      packed, beta, matrix_at(d_x, begin, count));
        }
        gather_taps(exec, grid, AllChannels{}, s.outputs, d_out, begin, gathered);
        if (s.stride == 1)
          return gemm(exec, Transpose::no, Transpose::no, 1.0, gathered, packed, beta,
                      matrix_at(d_x, begin, count));
        const auto result = first_rows(results, count);
        gemm(exec, Transpose::no, Transpose::no, 1.0, gathered, packed, 0.0, result);
        scatter_residue(exec, s, grid, row, col, begin, result, beta, d_x);
      });
    }
}

template <class Exec, class X, class DOut, class Runs, class Work, class DW>
void gemm_convolution_backward_weight(Exec const& exec, ConvolutionShape const& s,
                                      WeightLayout layout, X const& x, DOut const& d_out,
                                      Runs const& channels, Work const& workspace,
                                      DW const& d_weight) {
  const bool out_in = layout == WeightLayout::out_in;
  const auto rows = static_cast<index_t>(d_weight.extent(0));
  const index_t inputs = out_in ? s.inputs : rows;
  const index_t outputs = out_in ? rows : s.outputs;
  ConvolutionShape held = s;
  held.inputs = inputs;
  held.outputs = outputs;
  const auto grid = forward_grid(s);
  TapGrid out_grid{s.out_height(), s.out_width(), s.out_height(), s.out_width(), 1, {}, {}};
  out_grid.rows.add(0, 0);
  out_grid.cols.add(0, 0);
  const index_t depth = s.taps() * inputs;
  const index_t pixels = s.out_pixels();
  const index_t block = block_pixels<Exec>(pixels, s.taps() * s.inputs);
  Carver<Work> carve(workspace);
  const auto packed = carve.sums(depth, outputs);
  const auto taps = carve.matrix(block, depth);
  const auto held_out = carve.matrix(block, outputs);
  constexpr bool k_all = std::is_same_v<Runs, AllChannels>;
  if constexpr (k_direct<Exec, value_t<X>>) {
    if ((k_all || out_in) && direct_pays<Exec, value_t<X>>(inputs, outputs)) {
      const auto zeros = first_rows(taps, 1);
      Kokkos::deep_copy(exec, zeros, 0);
      for_each_block(pixels, k_direct_pixels, [&](index_t begin, index_t count) {
        auto const* held_rows = d_out.data() + begin * s.outputs;
        if constexpr (!k_all) {
          const auto chosen = first_rows(held_out, count);
          gather_taps(exec, out_grid, channels, outputs, d_out, begin, chosen);
          held_rows = chosen.data();
        }
        direct_weight_gradient(exec, grid, x, held_rows, begin, count, zeros.data(), packed);
      });
      return unpack_weight_gradient(exec, weight_strides(held, layout), inputs, packed, d_weight);
    }
  }
  for_each_block(pixels, block, [&](index_t begin, index_t count) {
    const auto gathered = first_rows(taps, count);
    const double beta = begin == 0 ? 0.0 : 1.0;
    if (k_all || out_in)
      gather_taps(exec, grid, AllChannels{}, inputs, x, begin, gathered);
    else
      gather_taps(exec, grid, channels, inputs, x, begin, gathered);
    if (k_all || !out_in)
      return gemm(exec, Transpose::yes, Transpose::no, 1.0, gathered,
                  matrix_at(d_out, begin, count), beta, packed);
    const auto chosen = first_rows(held_out, count);
    gather_taps(exec, out_grid, channels, outputs, d_out, begin, chosen);
    gemm(exec, Transpose::yes, Transpose::no, 1.0, gathered, chosen, beta, packed);
  });
  unpack_weight_gradient(exec, weight_strides(held, layout), inputs, packed, d_weight);
}

}  // namespace sdp::kernels::Details
