// SPDX-License-Identifier: Apache-2.0
// A residual block composed of the kernels, beside what PyTorch recorded for it.
#include "kernels/nn/batch_norm_backward.hpp"
#include "kernels/nn/convolution.hpp"
#include "tests/kernels/nn/images.hpp"
#include "tests/support/references.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

/// (N,C,H,W) of PyTorch as (N,H,W,C).
Values channel_last(Values const& from, index_t n, index_t c, index_t h, index_t w) {
  Values to(from.size());
  for (index_t i = 0; i < n * c; ++i)
    for (index_t pixel = 0; pixel < h * w; ++pixel)
      to[(i / c * h * w + pixel) * c + i % c] = from[i * h * w + pixel];
  return to;
}

/// (O,I,K,K) as (I,O,K,K).
Values turned(Values const& from, index_t outputs, index_t inputs, index_t taps) {
  Values to(from.size());
  for (index_t o = 0; o < outputs; ++o)
    for (index_t i = 0; i < inputs; ++i)
      for (index_t t = 0; t < taps; ++t)
        to[(i * outputs + o) * taps + t] = from[(o * inputs + i) * taps + t];
  return to;
}

template <class T>
struct Norm {
  Norm(Reference const& reference, std::string const& name, index_t count)
      : weight(vector_of<T>(reference.values("weight." + name + ".weight"))),
        bias(vector_of<T>(reference.values("weight." + name + ".bias"))),
        running_mean(vector_of<T>(reference.values("before." + name + ".running_mean"))),
        running_var(vector_of<T>(reference.values("before." + name + ".running_var"))),
        mean(nan_vector<T>(count)),
        rstd(nan_vector<T>(count)),
        d_weight(vector_of<T>(Values(static_cast<std::size_t>(count), 0.0))),
        d_bias(vector_of<T>(Values(static_cast<std::size_t>(count), 0.0))) {}

  void statistics(Images<T> const& x) const {
    const auto rows = pixel_rows(x);
    const auto chunks = batch_norm_chunks(static_cast<index_t>(rows.extent(0)));
    batch_norm_statistics(Exec(), rows, 1e-5, 0.1,
                          nan_matrix<T>(chunks, 2 * static_cast<index_t>(rows.extent(1))), mean,
                          rstd, running_mean, running_var);
  }
  void inference() const {
    Kokkos::deep_copy(mean, running_mean);
    batch_norm_inference_rstd(Exec(), running_var, 1e-5, rstd);
  }
  void backward(Activation activation, Images<T> const& d_out, Images<T> const& out,
                Images<T> const& x, Images<T> const& d_x) const {
    const auto rows = pixel_rows(x);
    const auto channels = static_cast<index_t>(rows.extent(1));
    batch_norm_backward(
        Exec(), activation, pixel_rows(d_out), pixel_rows(out), rows, mean, rstd, weight,
        AllChannels{},
        nan_matrix<T>(batch_norm_chunks(static_cast<index_t>(rows.extent(0))), 2 * channels),
        nan_matrix<T>(2, channels), pixel_rows(d_x), d_weight, d_bias);
  }

  Vector<T> weight, bias, running_mean, running_var, mean, rstd, d_weight, d_bias;
};

struct BlockShape {
  index_t images, inputs, outputs, height, width;
  int stride;
};

template <class T>
class Block {
 public:
  Block(Reference const& reference, BlockShape const& shape)
      : m_reference(reference),
        m_shape(shape),
        m_rows((shape.height + shape.stride - 1) / shape.stride),
        m_cols((shape.width + shape.stride - 1) / shape.stride),
        m_projects(reference.has("weight.shortcut.0.weight")),
        m_norm1(reference, "bn1", shape.outputs),
        m_norm2(reference, "bn2", shape.outputs),
        m_shortcut_norm(reference, m_projects ? "shortcut.1" : "bn2", shape.outputs),
        m_x(images_of<T>(shape.images, shape.height, shape.width, shape.inputs,
                         channel_last(reference.values("x"), shape.images, shape.inputs,
                                      shape.height, shape.width))),
        m_weight1(weight(shape.outputs, shape.inputs, 3, reference.values("weight.conv1.weight"))),
        m_weight2(weight(
            shape.outputs, shape.outputs, 3,
            turned(reference.values("weight.conv2.weight"), shape.outputs, shape.outputs, 9))),
        m_conv1(nan_images()),
        m_inner(nan_images()),
        m_conv2(nan_images()),
        m_shortcut(nan_images()),
        m_out(nan_images()),
        m_workspace(nan_vector<T>(1 << 20)) {
    if (m_projects)
      m_shortcut_weight =
          weight(shape.outputs, shape.inputs, 1, reference.values("weight.shortcut.0.weight"));
  }

  void forward(bool training) {
    const auto prepare = [&](Norm<T> const& norm, Images<T> const& x) {
      training ? norm.statistics(x) : norm.inference();
    };
    const Exec exec;
    convolution_forward(exec, WeightLayout::out_in, m_shape.stride, m_x, m_weight1, m_workspace,
                        m_conv1);
    prepare(m_norm1, m_conv1);
    batch_norm_forward(exec, Activation::relu, pixel_rows(m_conv1), m_norm1.mean, m_norm1.rstd,
                       m_norm1.weight, m_norm1.bias, pixel_rows(m_inner));
    convolution_forward(exec, WeightLayout::in_out, 1, m_inner, m_weight2, m_workspace, m_conv2);
    auto residual = m_x;
    if (m_projects) {
      residual = nan_images();
      convolution_forward(exec, WeightLayout::out_in, m_shape.stride, m_x, m_shortcut_weight,
                          m_workspace, m_shortcut);
      prepare(m_shortcut_norm, m_shortcut);
      batch_norm_forward(exec, Activation::none, pixel_rows(m_shortcut), m_shortcut_norm.mean,
                         m_shortcut_norm.rstd, m_shortcut_norm.weight, m_shortcut_norm.bias,
                         pixel_rows(residual));
    }
    prepare(m_norm2, m_conv2);
    batch_norm_add_forward(exec, Activation::relu, pixel_rows(m_conv2), m_norm2.mean, m_norm2.rstd,
                           m_norm2.weight, m_norm2.bias, pixel_rows(residual), pixel_rows(m_out));
  }

  void backward_and_compare(double tolerance) {
    const Exec exec;
    const auto d_out = out_images(m_reference.values("d_out"));
    const auto d_inner = nan_images(), d_conv = nan_images();
    const auto d_weight1 = zeros(m_weight1), d_weight2 = zeros(m_weight2);
    m_norm2.backward(Activation::relu, d_out, m_out, m_conv2, d_conv);
    convolution_backward_weight(exec, WeightLayout::in_out, 1, m_inner, d_conv, m_workspace,
                                d_weight2);
    convolution_backward_input(exec, WeightLayout::in_out, 1, d_conv, m_weight2, m_workspace,
                               d_inner);
    m_norm1.backward(Activation::relu, d_inner, m_inner, m_conv1, d_inner);
    convolution_backward_weight(exec, WeightLayout::out_in, m_shape.stride, m_x, d_inner,
                                m_workspace, d_weight1);
    // The gradient of the shortcut comes first, that of the branch is added to it.
    auto d_x = d_out;
    if (m_projects) {
      d_x = images_of<T>(m_shape.images, m_shape.height, m_shape.width, m_shape.inputs,
                         nan_values(m_x.size()));
      const auto d_weight = zeros(m_shortcut_weight);
      m_shortcut_norm.backward(Activation::none, d_out, m_out, m_shortcut, d_conv);
      convolution_backward_weight(exec, WeightLayout::out_in, m_shape.stride, m_x, d_conv,
                                  m_workspace, d_weight);
      convolution_backward_input(exec, WeightLayout::out_in, m_shape.stride, d_conv,
                                 m_shortcut_weight, m_workspace, d_x);
      compare(get_values(d_weight), m_reference.values("grad.shortcut.0.weight"), tolerance,
              "shortcut.0.weight");
      compare_norm(m_shortcut_norm, "shortcut.1", tolerance);
    }
    convolution_backward_input(exec, WeightLayout::out_in, m_shape.stride, d_inner, m_weight1,
                               m_workspace, d_x, 1.0);
    compare(get_values(d_x),
            channel_last(m_reference.values("d_x"), m_shape.images, m_shape.inputs, m_shape.height,
                         m_shape.width),
            tolerance, "d_x");
    compare(get_values(d_weight1), m_reference.values("grad.conv1.weight"), tolerance,
            "conv1.weight");
    compare(get_values(d_weight2),
            turned(m_reference.values("grad.conv2.weight"), m_shape.outputs, m_shape.outputs, 9),
            tolerance, "conv2.weight");
    compare_norm(m_norm1, "bn1", tolerance);
    compare_norm(m_norm2, "bn2", tolerance);
  }

  void compare_out(std::string const& name, double tolerance) const {
    compare(get_values(m_out), out_order(m_reference.values(name)), tolerance, name);
  }

 private:
  static void compare(Values const& actual, Values const& expected, double tolerance,
                      std::string const& what) {
    EXPECT_LE(relative_error(actual, expected), tolerance) << what;
  }
  void compare_norm(Norm<T> const& norm, std::string const& name, double tolerance) const {
    const auto check = [&](Vector<T> const& actual, std::string const& tensor) {
      compare(get_values(actual), m_reference.values(tensor), tolerance, tensor);
    };
    check(norm.d_weight, "grad." + name + ".weight");
    check(norm.d_bias, "grad." + name + ".bias");
    check(norm.running_mean, "after." + name + ".running_mean");
    check(norm.running_var, "after." + name + ".running_var");
  }
  static Images<T> weight(index_t outputs, index_t inputs, index_t kernel, Values const& values) {
    return images_of<T>(outputs, inputs, kernel, kernel, values);
  }
  static Images<T> zeros(Images<T> const& like) {
    return Images<T>("zeros", like.extent(0), like.extent(1), like.extent(2), like.extent(3));
  }
  Values out_order(Values const& values) const {
    return channel_last(values, m_shape.images, m_shape.outputs, m_rows, m_cols);
  }
  Images<T> out_images(Values const& values) const {
    return images_of<T>(m_shape.images, m_rows, m_cols, m_shape.outputs, out_order(values));
  }
  Images<T> nan_images() const {
    return images_of<T>(
        m_shape.images, m_rows, m_cols, m_shape.outputs,
        nan_values(static_cast<std::size_t>(m_shape.images * m_rows * m_cols * m_shape.outputs)));
  }

  Reference const& m_reference;
  BlockShape m_shape;
  index_t m_rows, m_cols;
  bool m_projects;
  Norm<T> m_norm1, m_norm2, m_shortcut_norm;
  Images<T> m_x, m_weight1, m_weight2, m_shortcut_weight;
  Images<T> m_conv1, m_inner, m_conv2, m_shortcut, m_out;
  Vector<T> m_workspace;
};

template <class T>
void agrees_with_pytorch(char const* name, BlockShape const& shape, double tolerance) {
  SCOPED_TRACE(name);
  const Reference reference(name);
  Block<T> block(reference, shape);
  block.forward(true);
  block.compare_out("out", tolerance);
  block.backward_and_compare(tolerance);
  block.forward(false);
  block.compare_out("evaluated", tolerance);
}

constexpr BlockShape k_identity{3, 19, 19, 9, 7, 1}, k_projection{5, 10, 17, 9, 6, 2};

TEST(ResidualBlock, AgreesWithPyTorchInFloat64) {
  agrees_with_pytorch<double>("residual_block_identity", k_identity, 1e-10);
  agrees_with_pytorch<double>("residual_block_projection", k_projection, 1e-10);
}

TEST(ResidualBlock, AgreesWithPyTorchInFloat32) {
  agrees_with_pytorch<float>("residual_block_identity", k_identity, 1e-5);
  agrees_with_pytorch<float>("residual_block_projection", k_projection, 1e-5);
}

}  // namespace
}  // namespace sdp::kernels
