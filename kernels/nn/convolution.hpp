// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/nn/channel_runs.hpp"
#include "kernels/nn/convolution_gemm.hpp"
#include "kernels/nn/convolution_winograd.hpp"
#include "kernels/nn/linear.hpp"

// Two-dimensional convolution (cross-correlation, as in PyTorch) without bias, square kernels of
// odd size K, padding K / 2, any stride.
//
// N images, H x W input pixels, P x Q output pixels, I input and O output channels. Images lie with
// the channel last: x (N,H,W,I), out (N,P,Q,O). Weights have PyTorch's shape (O,I,K,K), or
// (I,O,K,K) with WeightLayout::in_out, for a convolution whose inputs are cut by subnetworks: a
// unit is a range of the leading axis in both.
//
//   out(n,p,q,o) = sum over i, kh, kw of x(n, s*p + kh - K/2, s*q + kw - K/2, i) * w(o,i,kh,kw)
//
// with x = 0 outside of the image. Storage types float, double and bf16; gradients of weights are
// in accum_t of the images. bf16 is multiplied as gathered, with sums in float and one rounding of
// an output: Winograd's transformed tiles would have to be rounded too, which loses several bits.
// None of these functions allows aliasing between its arguments, and each throws ShapeError when
// the extents do not fit.

namespace sdp::kernels {

namespace Details {
enum class ConvolutionMethod { gemm, winograd_2, winograd_4 };

/// Whether convolutions of T may go through Winograd's algorithm.
template <class T>
inline constexpr bool k_has_winograd = std::is_floating_point_v<T>;

/// The cheapest way to convolve, by a count of multiplications and of what moving operands costs in
/// their measure.
inline ConvolutionMethod convolution_method(ConvolutionShape const& s) {
  if (s.kernel != 3 || s.stride != 1) return ConvolutionMethod::gemm;
  constexpr index_t k_gathered = 8, k_transformed = 12, k_weight = 16;
  const index_t pair = s.inputs * s.outputs, both = s.inputs + s.outputs;
  const auto winograd = [&](int m) {
    const auto grid = tile_grid(s, m);
    const index_t tiles = s.images * grid.rows * grid.cols;
    return (m + 2) * (m + 2) * (tiles * (pair + k_transformed * both) + k_weight * pair);
  };
  const index_t direct =
      s.taps() * (s.out_pixels() * (pair + k_gathered * s.inputs) + k_weight * pair);
  const index_t two = winograd(2), four = winograd(4);
  if (direct <= two && direct <= four) return ConvolutionMethod::gemm;
  return two < four ? ConvolutionMethod::winograd_2 : ConvolutionMethod::winograd_4;
}
}  // namespace Details

/// Elements of the workspace that each function below needs for this shape and value type T. It has
/// to be aligned as accum_t<T> is, as every allocation of Kokkos is.
template <ExecutionSpace Exec, class T>
index_t convolution_workspace_size(ConvolutionShape const& shape) {
  if constexpr (Details::k_has_winograd<T>) {
    switch (Details::convolution_method(shape)) {
      case Details::ConvolutionMethod::winograd_2:
        return Details::winograd_workspace<Exec, 2>(shape);
      case Details::ConvolutionMethod::winograd_4:
        return Details::winograd_workspace<Exec, 4>(shape);
      default:
        break;
    }
  }
  return Details::gemm_convolution_workspace<Exec, T>(shape);
}

namespace Details {
template <class Exec, class Work>
void check_workspace(char const* name, ConvolutionShape const& shape, Work const& workspace) {
  const index_t needed = convolution_workspace_size<Exec, value_t<Work>>(shape);
  require(static_cast<index_t>(workspace.extent(0)) >= needed, name,
          "workspace " + shape_string(workspace) + " must have at least " + std::to_string(needed) +
              " elements");
  require(reinterpret_cast<std::uintptr_t>(workspace.data()) % alignof(accum_t<value_t<Work>>) == 0,
          name, "workspace must be aligned");
}
}  // namespace Details

/// out = x convolved with weight; out is overwritten.
///
/// x (N,H,W,I), weight (O,I,K,K) or (I,O,K,K), out (N,P,Q,O); workspace as
/// convolution_workspace_size.
template <ExecutionSpace Exec, RowMajor<4> X, RowMajor<4> W, RowMajor<1> Work, RowMajor<4> Out>
void convolution_forward(Exec const& exec, WeightLayout layout, int stride, X const& x,
                         W const& weight, Work const& workspace, Out const& out) {
  constexpr char const* k_name = "sdp::kernels::convolution_forward";
  const auto shape =
      Details::check_convolution(k_name, layout, stride, "x", x, "out", out, "weight", weight);
  Details::check_workspace<Exec>(k_name, shape, workspace);
  if (out.size() == 0) return;
  if constexpr (Details::k_has_winograd<value_t<X>>) {
    switch (const auto strides = Details::weight_strides(shape, layout);
            Details::convolution_method(shape)) {
      case Details::ConvolutionMethod::winograd_2:
        return Details::winograd_convolution<2, false>(exec, shape, strides, x, weight, workspace,
                                                       0.0, out);
      case Details::ConvolutionMethod::winograd_4:
        return Details::winograd_convolution<4, false>(exec, shape, strides, x, weight, workspace,
                                                       0.0, out);
      default:
        break;
    }
  }
  Details::gemm_convolution_forward(exec, shape, layout, x, weight, workspace, out);
}

/// d_x = gradient of convolution_forward with respect to x + beta * d_x; with beta = 0 d_x is
/// overwritten whatever it held.
///
/// d_out (N,P,Q,O), weight (O,I,K,K) or (I,O,K,K), d_x (N,H,W,I); workspace as
/// convolution_workspace_size.
template <ExecutionSpace Exec, RowMajor<4> DOut, RowMajor<4> W, RowMajor<1> Work, RowMajor<4> DX>
void convolution_backward_input(Exec const& exec, WeightLayout layout, int stride,
                                DOut const& d_out, W const& weight, Work const& workspace,
                                DX const& d_x, double beta = 0.0) {
  constexpr char const* k_name = "sdp::kernels::convolution_backward_input";
  const auto shape = Details::check_convolution(k_name, layout, stride, "d_x", d_x, "d_out", d_out,
                                                "weight", weight);
  Details::check_workspace<Exec>(k_name, shape, workspace);
  if (d_x.size() == 0) return;
  if constexpr (Details::k_has_winograd<value_t<DOut>>) {
    const auto forward_strides = Details::weight_strides(shape, layout);
    const Details::ChannelStrides strides{forward_strides.to, forward_strides.from};
    switch (Details::convolution_method(shape)) {
      case Details::ConvolutionMethod::winograd_2:
        return Details::winograd_convolution<2, true>(exec, shape, strides, d_out, weight,
                                                      workspace, beta, d_x);
      case Details::ConvolutionMethod::winograd_4:
        return Details::winograd_convolution<4, true>(exec, shape, strides, d_out, weight,
                                                      workspace, beta, d_x);
      default:
        break;
    }
  }
  Details::gemm_convolution_backward_input(exec, shape, layout, d_out, weight, workspace, d_x,
                                           beta);
}

/// d_weight += gradient of convolution_forward with respect to the weight, for the channels of the
/// leading weight axis that `channels` names: row run.to + j of d_weight is the gradient of row
/// run.from + j of the weight. The work is proportional to the channels named.
///
/// x (N,H,W,I), d_out (N,P,Q,O), d_weight (rows, I or O, K, K) in accum_t with as many rows as
/// channels are named, or all of them with AllChannels; workspace as convolution_workspace_size of
/// the whole convolution. Products of tiles of pixels are summed in the order of the pixels.
template <ExecutionSpace Exec, RowMajor<4> X, RowMajor<4> DOut, ChannelRuns Runs, RowMajor<1> Work,
          RowMajor<4> DW>
void convolution_backward_weight(Exec const& exec, WeightLayout layout, int stride, X const& x,
                                 DOut const& d_out, Runs const& channels, Work const& workspace,
                                 DW const& d_weight) {
  constexpr char const* k_name = "sdp::kernels::convolution_backward_weight";
  const auto shape =
      Details::check_weight_gradient<Runs>(k_name, layout, stride, x, d_out, d_weight);
  Details::check_workspace<Exec>(k_name, shape, workspace);
  if (d_weight.size() == 0 || d_out.size() == 0) return;
  if constexpr (Details::k_has_winograd<value_t<X>>) {
    switch (Details::convolution_method(shape)) {
      case Details::ConvolutionMethod::winograd_2:
        return Details::winograd_backward_weight<2>(exec, shape, layout, x, d_out, channels,
                                                    workspace, d_weight);
      case Details::ConvolutionMethod::winograd_4:
        return Details::winograd_backward_weight<4>(exec, shape, layout, x, d_out, channels,
                                                    workspace, d_weight);
      default:
        break;
    }
  }
  Details::gemm_convolution_backward_weight(exec, shape, layout, x, d_out, channels, workspace,
                                            d_weight);
}

/// The same for every channel: d_weight has the shape of the weight.
template <ExecutionSpace Exec, RowMajor<4> X, RowMajor<4> DOut, RowMajor<1> Work, RowMajor<4> DW>
void convolution_backward_weight(Exec const& exec, WeightLayout layout, int stride, X const& x,
                                 DOut const& d_out, Work const& workspace, DW const& d_weight) {
  convolution_backward_weight(exec, layout, stride, x, d_out, AllChannels{}, workspace, d_weight);
}

/// convolution_backward_weight and then convolution_backward_input, in fewer passes over d_out
/// where the algorithm allows that; the weight gradient may differ from theirs by rounding.
///
/// Shapes, what is overwritten and errors are those of the two. The arguments do not alias.
template <ExecutionSpace Exec, RowMajor<4> X, RowMajor<4> DOut, RowMajor<4> W, ChannelRuns Runs,
          RowMajor<1> Work, RowMajor<4> DW, RowMajor<4> DX>
void convolution_backward(Exec const& exec, WeightLayout layout, int stride, X const& x,
                          DOut const& d_out, W const& weight, Runs const& channels,
                          Work const& workspace, DW const& d_weight, DX const& d_x,
                          double beta = 0.0) {
  if constexpr (Details::k_has_winograd<value_t<X>>) {
    constexpr char const* k_name = "sdp::kernels::convolution_backward";
    const auto shape = Details::check_convolution(k_name, layout, stride, "d_x", d_x, "d_out",
                                                  d_out, "weight", weight);
    Details::check_weight_gradient<Runs>(k_name, layout, stride, x, d_out, d_weight);
    Details::check_workspace<Exec>(k_name, shape, workspace);
    require_same_shape(k_name, "x", x, "d_x", d_x);
    // All of d_out is needed for d_x, some of its channels may be for d_weight.
    constexpr bool k_all = std::is_same_v<Runs, AllChannels>;
    const bool both =
        d_x.size() > 0 && d_weight.size() > 0 && (k_all || layout == WeightLayout::in_out);
    const auto method = Details::convolution_method(shape);
    if (both && method == Details::ConvolutionMethod::winograd_2 &&
        Details::WinogradPlan<Exec, 2>::pays_both(shape))
      return Details::winograd_backward<2>(exec, shape, layout, x, d_out, weight, channels,
                                           workspace, d_weight, beta, d_x);
    if (both && method == Details::ConvolutionMethod::winograd_4 &&
        Details::WinogradPlan<Exec, 4>::pays_both(shape))
      return Details::winograd_backward<4>(exec, shape, layout, x, d_out, weight, channels,
                                           workspace, d_weight, beta, d_x);
  }
  convolution_backward_weight(exec, layout, stride, x, d_out, channels, workspace, d_weight);
  convolution_backward_input(exec, layout, stride, d_out, weight, workspace, d_x, beta);
}

}  // namespace sdp::kernels
