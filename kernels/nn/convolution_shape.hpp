// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/checks.hpp"
#include "kernels/core/concepts.hpp"
#include "kernels/nn/channel_runs.hpp"
#include "kernels/nn/linear.hpp"

namespace sdp::kernels {

/// Extents of a convolution, named as in convolution.hpp.
struct ConvolutionShape {
  index_t images;   ///< N
  index_t height;   ///< H
  index_t width;    ///< W
  index_t inputs;   ///< I
  index_t outputs;  ///< O
  int kernel;       ///< K, odd
  int stride;

  int padding() const { return kernel / 2; }
  /// Output pixels along an axis of `size` input pixels: ceil(size / stride), since K is odd.
  index_t out_size(index_t size) const { return (size + stride - 1) / stride; }
  index_t out_height() const { return out_size(height); }
  index_t out_width() const { return out_size(width); }
  index_t in_pixels() const { return images * height * width; }
  index_t out_pixels() const { return images * out_height() * out_width(); }
  /// Weights of one pair of channels.
  index_t taps() const { return static_cast<index_t>(kernel) * kernel; }
};

namespace Details {
inline constexpr int k_max_convolution_kernel = 7;

/// The shape of x and out, K from the weight or its gradient; everything is checked but the leading
/// extents of the weight.
template <class X, class Out, class W>
ConvolutionShape check_images(char const* name, int stride, char const* x_name, X const& x,
                              char const* out_name, Out const& out, char const* weight_name,
                              W const& weight) {
  using T = value_t<X>;
  static_assert(std::is_floating_point_v<accum_t<T>>,
                "convolution: value type must be float, double or bf16");
  static_assert(std::is_same_v<T, value_t<Out>>,
                "convolution: images must have the same value type");
  const auto extent = [](auto const& view, int axis) {
    return static_cast<index_t>(view.extent(axis));
  };
  require(stride > 0, name, "stride must be positive");
  const index_t kernel = extent(weight, 2);
  require(kernel % 2 == 1 && kernel <= k_max_convolution_kernel, name,
          std::string(weight_name) + " " + shape_string(weight) +
              " must have an odd extent up to 7 on axis 2");
  require_extent(name, weight_name, weight, 3, kernel);
  const ConvolutionShape shape{extent(x, 0), extent(x, 1),   extent(x, 2),
                               extent(x, 3), extent(out, 3), static_cast<int>(kernel),
                               stride};
  require(extent(out, 0) == shape.images && extent(out, 1) == shape.out_height() &&
              extent(out, 2) == shape.out_width(),
          name,
          std::string(out_name) + " " + shape_string(out) + " does not fit " + x_name + " " +
              shape_string(x) + " at stride " + std::to_string(stride));
  return shape;
}

template <class X, class Out, class W>
ConvolutionShape check_convolution(char const* name, WeightLayout layout, int stride,
                                   char const* x_name, X const& x, char const* out_name,
                                   Out const& out, char const* weight_name, W const& weight) {
  static_assert(std::is_same_v<value_t<X>, value_t<W>>,
                "convolution: images and weights must have the same value type");
  const auto shape = check_images(name, stride, x_name, x, out_name, out, weight_name, weight);
  const int out_axis = layout == WeightLayout::out_in ? 0 : 1;
  require_extent(name, weight_name, weight, out_axis, shape.outputs);
  require_extent(name, weight_name, weight, 1 - out_axis, shape.inputs);
  return shape;
}

template <class Runs, class X, class DOut, class DW>
ConvolutionShape check_weight_gradient(char const* name, WeightLayout layout, int stride,
                                       X const& x, DOut const& d_out, DW const& d_weight) {
  static_assert(std::is_same_v<accum_t<value_t<X>>, value_t<DW>>,
                "convolution_backward_weight: d_weight must be in accum_t of x");
  const auto shape = check_images(name, stride, "x", x, "d_out", d_out, "d_weight", d_weight);
  const bool out_in = layout == WeightLayout::out_in;
  require_extent(name, "d_weight", d_weight, 1, out_in ? shape.inputs : shape.outputs);
  const index_t rows = out_in ? shape.outputs : shape.inputs;
  if constexpr (std::is_same_v<Runs, AllChannels>) {
    require_extent(name, "d_weight", d_weight, 0, rows);
  } else {
    static_assert(std::is_same_v<value_t<Runs>, ColumnRun>,
                  "convolution_backward_weight: channels must be a View of ColumnRun");
    require(static_cast<index_t>(d_weight.extent(0)) <= rows, name,
            "d_weight " + shape_string(d_weight) + " must have at most " + std::to_string(rows) +
                " rows");
  }
  return shape;
}
}  // namespace Details

}  // namespace sdp::kernels
