// SPDX-License-Identifier: Apache-2.0
#include "kernels/nn/convolution.hpp"

#include "tests/kernels/nn/images.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

ConvolutionShape shape_of(index_t images, index_t height, index_t width, index_t inputs,
                          index_t outputs, int kernel, int stride) {
  return {images, height, width, inputs, outputs, kernel, stride};
}

const ConvolutionShape k_shapes[] = {
    shape_of(1, 1, 1, 1, 1, 3, 1),   shape_of(1, 1, 1, 2, 3, 1, 2),
    shape_of(2, 5, 7, 3, 4, 3, 1),   shape_of(3, 7, 5, 4, 3, 3, 2),
    shape_of(2, 8, 8, 5, 17, 3, 2),  shape_of(1, 8, 4, 16, 33, 3, 1),
    shape_of(2, 6, 9, 19, 20, 3, 1), shape_of(3, 5, 5, 7, 6, 1, 1),
    shape_of(2, 7, 6, 3, 18, 1, 2),  shape_of(1, 6, 7, 2, 3, 5, 3),
    shape_of(17, 4, 4, 3, 2, 3, 1),  shape_of(2, 13, 12, 35, 2, 3, 1),
    shape_of(7, 9, 7, 27, 57, 3, 2), shape_of(5, 9, 11, 32, 30, 1, 2)};

constexpr WeightLayout k_layouts[] = {WeightLayout::out_in, WeightLayout::in_out};

index_t weight_at(ConvolutionShape const& s, WeightLayout layout, index_t o, index_t i,
                  index_t tap) {
  const index_t pair = layout == WeightLayout::out_in ? o * s.inputs + i : i * s.outputs + o;
  return pair * s.taps() + tap;
}

/// f(index into x, index into the weight, index into out) for every product of the convolution.
template <class F>
void for_each_product(ConvolutionShape const& s, WeightLayout layout, F const& f) {
  for (index_t n = 0; n < s.images; ++n)
    for (index_t p = 0; p < s.out_height(); ++p)
      for (index_t q = 0; q < s.out_width(); ++q)
        for (index_t tap = 0; tap < s.taps(); ++tap) {
          const index_t h = s.stride * p + tap / s.kernel - s.padding();
          const index_t w = s.stride * q + tap % s.kernel - s.padding();
          if (h < 0 || h >= s.height || w < 0 || w >= s.width) continue;
          for (index_t o = 0; o < s.outputs; ++o)
            for (index_t i = 0; i < s.inputs; ++i)
              f(((n * s.height + h) * s.width + w) * s.inputs + i, weight_at(s, layout, o, i, tap),
                ((n * s.out_height() + p) * s.out_width() + q) * s.outputs + o);
        }
}

template <class T>
struct Problem {
  Problem(ConvolutionShape const& s, WeightLayout l)
      : shape(s),
        layout(l),
        x(images_of<T>(s.images, s.height, s.width, s.inputs, noise(s.in_pixels() * s.inputs, 1))),
        weight(weight_of(noise(s.taps() * s.inputs * s.outputs, 2))),
        d_out(images_of<T>(s.images, s.out_height(), s.out_width(), s.outputs,
                           noise(s.out_pixels() * s.outputs, 3))),
        workspace(nan_vector<T>(convolution_workspace_size<Exec, T>(s))) {}

  Images<T> weight_of(Values const& values) const {
    const bool out_in = layout == WeightLayout::out_in;
    return images_of<T>(out_in ? shape.outputs : shape.inputs,
                        out_in ? shape.inputs : shape.outputs, shape.kernel, shape.kernel, values);
  }
  Images<T> out_of(Values const& values) const {
    return images_of<T>(shape.images, shape.out_height(), shape.out_width(), shape.outputs, values);
  }
  Images<T> x_of(Values const& values) const {
    return images_of<T>(shape.images, shape.height, shape.width, shape.inputs, values);
  }

  Values expected_out() const {
    Values out(d_out.size(), 0.0);
    const auto xs = get_values(x), ws = get_values(weight);
    for_each_product(shape, layout,
                     [&](index_t i, index_t w, index_t o) { out[o] += xs[i] * ws[w]; });
    return out;
  }
  Values expected_d_x() const {
    Values d_x(x.size(), 0.0);
    const auto ds = get_values(d_out), ws = get_values(weight);
    for_each_product(shape, layout,
                     [&](index_t i, index_t w, index_t o) { d_x[i] += ds[o] * ws[w]; });
    return d_x;
  }
  Values expected_d_weight() const {
    Values d_weight(weight.size(), 0.0);
    const auto ds = get_values(d_out), xs = get_values(x);
    for_each_product(shape, layout,
                     [&](index_t i, index_t w, index_t o) { d_weight[w] += ds[o] * xs[i]; });
    return d_weight;
  }

  ConvolutionShape shape;
  WeightLayout layout;
  Images<T> x, weight, d_out;
  Vector<T> workspace;
};

template <class T>
void expect_same(Images<T> const& actual, Values const& expected, std::string const& what) {
  // Sums of up to a thousand products below 1.
  expect_close(get_values(actual), expected, 500 * epsilon<T>(), 1.0, what);
}

template <class T>
class Convolution : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Convolution, Types);

TYPED_TEST(Convolution, ForwardMatchesScalarReference) {
  for (const auto layout : k_layouts)
    for (auto const& shape : k_shapes) {
      const Problem<TypeParam> p(shape, layout);
      const auto out = p.out_of(nan_values(p.d_out.size()));
      convolution_forward(Exec(), layout, shape.stride, p.x, p.weight, p.workspace, out);
      expect_same(out, p.expected_out(), "out");
    }
}

TYPED_TEST(Convolution, BackwardInputMatchesScalarReferenceOverwritingOrAdding) {
  for (const auto layout : k_layouts)
    for (auto const& shape : k_shapes) {
      const Problem<TypeParam> p(shape, layout);
      auto expected = p.expected_d_x();
      const auto d_x = p.x_of(nan_values(p.x.size()));
      convolution_backward_input(Exec(), layout, shape.stride, p.d_out, p.weight, p.workspace, d_x);
      expect_same(d_x, expected, "d_x");
      const auto before = noise(p.x.size(), 7);
      const auto added = p.x_of(before), mixed = p.x_of(before);
      auto expected_mixed = expected;
      for (std::size_t i = 0; i < before.size(); ++i) {
        expected[i] += before[i];
        expected_mixed[i] += 0.5 * before[i];
      }
      convolution_backward_input(Exec(), layout, shape.stride, p.d_out, p.weight, p.workspace,
                                 added, 1.0);
      expect_same(added, expected, "d_x with beta = 1");
      convolution_backward_input(Exec(), layout, shape.stride, p.d_out, p.weight, p.workspace,
                                 mixed, 0.5);
      expect_same(mixed, expected_mixed, "d_x with beta = 1/2");
    }
}

TYPED_TEST(Convolution, BackwardWeightMatchesScalarReferenceAndAccumulates) {
  for (const auto layout : k_layouts)
    for (auto const& shape : k_shapes) {
      const Problem<TypeParam> p(shape, layout);
      const auto before = noise(p.weight.size(), 7);
      auto expected = p.expected_d_weight();
      for (std::size_t i = 0; i < before.size(); ++i) expected[i] += before[i];
      const auto d_weight = p.weight_of(before);
      convolution_backward_weight(Exec(), layout, shape.stride, p.x, p.d_out, p.workspace,
                                  d_weight);
      expect_same(d_weight, expected, "d_weight");
    }
}

TYPED_TEST(Convolution, BackwardWeightOfSomeChannelsIsThoseRowsOfTheWhole) {
  using T = TypeParam;
  for (const auto layout : k_layouts)
    for (auto const& shape : {shape_of(2, 5, 7, 21, 23, 3, 1), shape_of(3, 7, 5, 6, 8, 3, 2),
                              shape_of(2, 4, 4, 9, 9, 1, 2), shape_of(5, 8, 8, 40, 40, 3, 1),
                              shape_of(5, 16, 16, 40, 24, 3, 1)}) {
      const Problem<T> p(shape, layout);
      const auto all = p.expected_d_weight();
      const index_t leading = static_cast<index_t>(p.weight.extent(0));
      const std::vector<ColumnRun> runs = {{leading - 2, 2, 2}, {1, 0, 2}, {4, 4, 1}};
      const index_t row = static_cast<index_t>(p.weight.size()) / leading;
      Values expected(static_cast<std::size_t>(5 * row));
      for (auto const& run : runs)
        std::copy_n(all.begin() + run.from * row, run.count * row, expected.begin() + run.to * row);
      const auto d_weight = images_of<T>(5, static_cast<index_t>(p.weight.extent(1)), shape.kernel,
                                         shape.kernel, Values(expected.size(), 0.0));
      convolution_backward_weight(Exec(), layout, shape.stride, p.x, p.d_out, vector_of_items(runs),
                                  p.workspace, d_weight);
      expect_same(d_weight, expected, "d_weight");
      Kokkos::deep_copy(d_weight, T(0));
      const auto d_x = p.x_of(nan_values(p.x.size()));
      convolution_backward(Exec(), layout, shape.stride, p.x, p.d_out, p.weight,
                           vector_of_items(runs), p.workspace, d_weight, d_x);
      expect_same(d_weight, expected, "d_weight of both");
      expect_same(d_x, p.expected_d_x(), "d_x of both");
    }
}

TYPED_TEST(Convolution, BackwardAddsToBothGradients) {
  for (const auto layout : k_layouts)
    for (auto const& shape : k_shapes) {
      const Problem<TypeParam> p(shape, layout);
      const auto weight_before = noise(p.weight.size(), 7), x_before = noise(p.x.size(), 8);
      auto expected_weight = p.expected_d_weight(), expected_x = p.expected_d_x();
      for (std::size_t i = 0; i < weight_before.size(); ++i) expected_weight[i] += weight_before[i];
      for (std::size_t i = 0; i < x_before.size(); ++i) expected_x[i] += 0.5 * x_before[i];
      const auto d_weight = p.weight_of(weight_before);
      const auto d_x = p.x_of(x_before);
      convolution_backward(Exec(), layout, shape.stride, p.x, p.d_out, p.weight, AllChannels{},
                           p.workspace, d_weight, d_x, 0.5);
      expect_same(d_weight, expected_weight, "d_weight");
      expect_same(d_x, expected_x, "d_x");
    }
}

template <int M>
struct Outputs {
  static constexpr int value = M;
};
template <class Size>
class Winograd : public ::testing::Test {};
using Sizes = ::testing::Types<Outputs<2>, Outputs<4>>;
TYPED_TEST_SUITE(Winograd, Sizes);

TYPED_TEST(Winograd, EveryTileSizeMatchesScalarReferenceOverManyBlocks) {
  constexpr int k_outputs = TypeParam::value;
  for (const auto layout : k_layouts)
    for (auto const& shape : {shape_of(1, 1, 1, 1, 2, 3, 1), shape_of(3, 5, 7, 17, 5, 3, 1),
                              shape_of(5, 13, 17, 3, 18, 3, 1), shape_of(2, 8, 8, 16, 16, 3, 1)}) {
      using Plan = Details::WinogradPlan<Exec, k_outputs>;
      const Problem<double> p(shape, layout);
      const auto workspace = nan_vector<double>(Plan(shape).workspace);
      const auto strides = Details::weight_strides(shape, layout);
      const auto out = p.out_of(nan_values(p.d_out.size()));
      Details::winograd_convolution<k_outputs, false>(Exec(), shape, strides, p.x, p.weight,
                                                      workspace, 0.0, out);
      expect_same(out, p.expected_out(), "out");
      const auto d_x = p.x_of(nan_values(p.x.size()));
      Details::winograd_convolution<k_outputs, true>(Exec(), shape, {strides.to, strides.from},
                                                     p.d_out, p.weight, workspace, 0.0, d_x);
      expect_same(d_x, p.expected_d_x(), "d_x");
      const auto d_weight = p.weight_of(Values(p.weight.size(), 0.0));
      Details::winograd_backward_weight<k_outputs>(Exec(), shape, layout, p.x, p.d_out,
                                                   AllChannels{}, workspace, d_weight);
      expect_same(d_weight, p.expected_d_weight(), "d_weight");
      const auto both = nan_vector<double>(Plan(shape, true).workspace);
      Kokkos::deep_copy(d_weight, 0.0);
      Kokkos::deep_copy(d_x, std::nan(""));
      Details::winograd_backward<k_outputs>(Exec(), shape, layout, p.x, p.d_out, p.weight,
                                            AllChannels{}, both, d_weight, 0.0, d_x);
      expect_same(d_weight, p.expected_d_weight(), "d_weight of both");
      expect_same(d_x, p.expected_d_x(), "d_x of both");
    }
}

TEST(ConvolutionMethod, FollowsTheCost) {
  using Details::convolution_method;
  using Method = Details::ConvolutionMethod;
  EXPECT_EQ(convolution_method(shape_of(64, 32, 32, 64, 64, 3, 1)), Method::winograd_4);
  EXPECT_EQ(convolution_method(shape_of(6, 4, 4, 512, 512, 3, 1)), Method::winograd_2);
  EXPECT_EQ(convolution_method(shape_of(1, 2, 2, 512, 512, 3, 1)), Method::gemm);
  EXPECT_EQ(convolution_method(shape_of(64, 32, 32, 3, 64, 3, 1)), Method::gemm);
  EXPECT_EQ(convolution_method(shape_of(64, 32, 32, 64, 64, 3, 2)), Method::gemm);
  EXPECT_EQ(convolution_method(shape_of(64, 32, 32, 64, 64, 1, 1)), Method::gemm);
}

TEST(ConvolutionGradient, AgreesWithFiniteDifferences) {
  for (const auto layout : k_layouts)
    for (auto const& shape : {shape_of(2, 5, 4, 2, 3, 3, 1), shape_of(2, 5, 4, 2, 3, 3, 2)}) {
      const Problem<double> p(shape, layout);
      const auto cost = get_values(p.d_out);
      const auto loss = [&](Values const& xs, Values const& ws) {
        const auto out = p.out_of(nan_values(p.d_out.size()));
        convolution_forward(Exec(), layout, shape.stride, p.x_of(xs), p.weight_of(ws), p.workspace,
                            out);
        return dot(get_values(out), cost);
      };
      const auto xs = get_values(p.x), ws = get_values(p.weight);
      const auto d_x = p.x_of(nan_values(p.x.size()));
      const auto d_weight = p.weight_of(Values(p.weight.size(), 0.0));
      convolution_backward_input(Exec(), layout, shape.stride, p.d_out, p.weight, p.workspace, d_x);
      convolution_backward_weight(Exec(), layout, shape.stride, p.x, p.d_out, p.workspace,
                                  d_weight);
      expect_close(get_values(d_x),
                   numeric_gradient([&](Values const& v) { return loss(v, ws); }, xs), 1e-8, 1.0,
                   "d_x");
      expect_close(get_values(d_weight),
                   numeric_gradient([&](Values const& v) { return loss(xs, v); }, ws), 1e-8, 1.0,
                   "d_weight");
    }
}

TEST(ConvolutionShapes, EmptyOperandsAreLegal) {
  const auto layout = WeightLayout::in_out;
  // No channel is held inside a block: conv1 has no outputs, conv2 no inputs.
  const Problem<float> no_inputs(shape_of(2, 5, 5, 0, 3, 3, 1), layout);
  const auto out = no_inputs.out_of(nan_values(no_inputs.d_out.size()));
  convolution_forward(Exec(), layout, 1, no_inputs.x, no_inputs.weight, no_inputs.workspace, out);
  EXPECT_EQ(get_values(out), Values(out.size(), 0.0));
  convolution_backward_weight(Exec(), layout, 1, no_inputs.x, no_inputs.d_out, no_inputs.workspace,
                              no_inputs.weight);

  const Problem<float> no_outputs(shape_of(2, 5, 5, 3, 0, 3, 1), layout);
  const auto d_x = no_outputs.x_of(nan_values(no_outputs.x.size()));
  convolution_backward_input(Exec(), layout, 1, no_outputs.d_out, no_outputs.weight,
                             no_outputs.workspace, d_x);
  EXPECT_EQ(get_values(d_x), Values(d_x.size(), 0.0));

  const Problem<float> no_images(shape_of(0, 5, 5, 3, 4, 3, 1), layout);
  const auto before = get_values(no_images.weight);
  convolution_forward(Exec(), layout, 1, no_images.x, no_images.weight, no_images.workspace,
                      no_images.d_out);
  convolution_backward_input(Exec(), layout, 1, no_images.d_out, no_images.weight,
                             no_images.workspace, no_images.x);
  convolution_backward_weight(Exec(), layout, 1, no_images.x, no_images.d_out, no_images.workspace,
                              no_images.weight);
  EXPECT_EQ(get_values(no_images.weight), before);
}

TEST(ConvolutionShapes, MisfitsAreNamed) {
  const auto layout = WeightLayout::out_in;
  const auto zeros = [](index_t a, index_t b, index_t c, index_t d) {
    return Images<float>("zeros", a, b, c, d);
  };
  const auto x = zeros(2, 5, 5, 3), out = zeros(2, 3, 3, 4), weight = zeros(4, 3, 3, 3);
  const Vector<float> workspace(
      "workspace", convolution_workspace_size<Exec, float>(shape_of(2, 5, 5, 3, 4, 3, 2)));
  const auto expect = [](auto const& f, std::string const& message) {
    EXPECT_EQ(message_of<ShapeError>(f), "sdp::kernels::convolution_" + message);
  };
  expect([&] { convolution_forward(Exec(), layout, 1, x, weight, workspace, out); },
         "forward: out (2,3,3,4) does not fit x (2,5,5,3) at stride 1");
  expect([&] { convolution_forward(Exec(), layout, 2, x, zeros(4, 2, 3, 3), workspace, out); },
         "forward: weight (4,2,3,3) must have extent 3 on axis 1");
  expect([&] { convolution_forward(Exec(), layout, 2, x, zeros(4, 3, 2, 2), workspace, out); },
         "forward: weight (4,3,2,2) must have an odd extent up to 7 on axis 2");
  expect([&] { convolution_forward(Exec(), layout, 2, x, weight, Vector<float>("w", 3), out); },
         "forward: workspace (3) must have at least " + std::to_string(workspace.extent(0)) +
             " elements");
  expect(
      [&] { convolution_backward_input(Exec(), layout, 2, out, zeros(5, 3, 3, 3), workspace, x); },
      "backward_input: weight (5,3,3,3) must have extent 4 on axis 0");
  expect(
      [&] { convolution_backward_weight(Exec(), layout, 2, x, out, workspace, zeros(3, 3, 3, 3)); },
      "backward_weight: d_weight (3,3,3,3) must have extent 4 on axis 0");
}

}  // namespace
}  // namespace sdp::kernels
