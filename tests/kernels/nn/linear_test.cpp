// SPDX-License-Identifier: Apache-2.0
#include "kernels/nn/linear.hpp"

#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

struct Case {
  index_t rows, inputs, outputs;
};
constexpr Case k_cases[] = {{1, 1, 1}, {3, 5, 7}, {17, 8, 33}, {64, 31, 2}};

/// weight[o][i] in either layout.
double entry(Values const& weight, WeightLayout layout, Case const& c, index_t o, index_t i) {
  return weight[layout == WeightLayout::out_in ? o * c.inputs + i : i * c.outputs + o];
}

template <class T>
Matrix<T> weight_matrix(WeightLayout layout, Case const& c, Values const& values) {
  return layout == WeightLayout::out_in ? matrix_of<T>(c.outputs, c.inputs, values)
                                        : matrix_of<T>(c.inputs, c.outputs, values);
}

template <class T>
class Linear : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Linear, Types);

TYPED_TEST(Linear, MatchesScalarReferenceInBothLayouts) {
  using T = TypeParam;
  for (const auto layout : {WeightLayout::out_in, WeightLayout::in_out})
    for (Case const& c : k_cases)
      for (const bool defaults : {true, false}) {
        const auto x = matrix_of<T>(c.rows, c.inputs, noise(c.rows * c.inputs, 1));
        const auto weight = weight_matrix<T>(layout, c, noise(c.inputs * c.outputs, 2));
        const auto d_out = matrix_of<T>(c.rows, c.outputs, noise(c.rows * c.outputs, 3));
        const auto xs = get_values(x), ws = get_values(weight), ds = get_values(d_out);
        // By default outputs are overwritten and the weight gradient accumulates.
        const auto out = defaults ? nan_matrix<T>(c.rows, c.outputs)
                                  : matrix_of<T>(c.rows, c.outputs, noise(c.rows * c.outputs, 4));
        const auto d_x = defaults ? nan_matrix<T>(c.rows, c.inputs)
                                  : matrix_of<T>(c.rows, c.inputs, noise(c.rows * c.inputs, 5));
        const auto d_w = weight_matrix<T>(
            layout, c,
            defaults ? noise(c.inputs * c.outputs, 6)
                     : Values(static_cast<std::size_t>(c.inputs * c.outputs), std::nan("")));
        Values expected_out = get_values(out), expected_x = get_values(d_x);
        Values expected_w = get_values(d_w);
        if (defaults) {
          std::fill(expected_out.begin(), expected_out.end(), 0.0);
          std::fill(expected_x.begin(), expected_x.end(), 0.0);
          linear_forward(Exec(), layout, x, weight, out);
          linear_backward_input(Exec(), layout, d_out, weight, d_x);
          linear_backward_weight(Exec(), layout, x, d_out, d_w);
        } else {
          std::fill(expected_w.begin(), expected_w.end(), 0.0);
          linear_forward(Exec(), layout, x, weight, out, 1.0, 1.5);
          linear_backward_input(Exec(), layout, d_out, weight, d_x, 1.0, 1.5);
          linear_backward_weight(Exec(), layout, x, d_out, d_w, 0.0, 1.5);
        }
        const double alpha = defaults ? 1.0 : 1.5;
        for (index_t n = 0; n < c.rows; ++n)
          for (index_t o = 0; o < c.outputs; ++o)
            for (index_t i = 0; i < c.inputs; ++i) {
              const double w = alpha * entry(ws, layout, c, o, i);
              expected_out[n * c.outputs + o] += xs[n * c.inputs + i] * w;
              expected_x[n * c.inputs + i] += ds[n * c.outputs + o] * w;
              expected_w[layout == WeightLayout::out_in ? o * c.inputs + i : i * c.outputs + o] +=
                  alpha * ds[n * c.outputs + o] * xs[n * c.inputs + i];
            }
        const double tolerance = 64 * epsilon<T>();
        expect_close(get_values(out), expected_out, tolerance, 1.0, "out");
        expect_close(get_values(d_x), expected_x, tolerance, 1.0, "d_x");
        expect_close(get_values(d_w), expected_w, tolerance, 1.0, "d_weight");
      }
}

TEST(LinearGradient, AgreesWithFiniteDifferences) {
  const Case c{3, 4, 5};
  for (const auto layout : {WeightLayout::out_in, WeightLayout::in_out}) {
    const auto x = noise(12, 1), w = noise(20, 2), weights = noise(15, 3);
    const auto loss = [&](Values const& xs, Values const& ws) {
      const auto out = nan_matrix<double>(3, 5);
      linear_forward(Exec(), layout, matrix_of<double>(3, 4, xs),
                     weight_matrix<double>(layout, c, ws), out);
      return dot(get_values(out), weights);
    };
    const auto d_out = matrix_of<double>(3, 5, weights);
    const auto d_x = nan_matrix<double>(3, 4);
    const auto d_w = weight_matrix<double>(layout, c, Values(20, 0.0));
    linear_backward_input(Exec(), layout, d_out, weight_matrix<double>(layout, c, w), d_x);
    linear_backward_weight(Exec(), layout, matrix_of<double>(3, 4, x), d_out, d_w);
    expect_close(get_values(d_x), numeric_gradient([&](Values const& v) { return loss(v, w); }, x),
                 1e-8, 1.0, "d_x");
    expect_close(get_values(d_w), numeric_gradient([&](Values const& v) { return loss(x, v); }, w),
                 1e-8, 1.0, "d_weight");
  }
}

TEST(LinearShapes, NoTokensAreLegalAndMisfitsAreNamed) {
  const Matrix<float> x("x", 0, 4), weight("w", 5, 4), out("out", 0, 5);
  const auto d_w = matrix_of<float>(5, 4, noise(20, 1));
  const auto before = get_values(d_w);
  linear_forward(Exec(), WeightLayout::out_in, x, weight, out);
  linear_backward_input(Exec(), WeightLayout::out_in, out, weight, x);
  linear_backward_weight(Exec(), WeightLayout::out_in, x, out, d_w);
  EXPECT_EQ(get_values(d_w), before);
  EXPECT_EQ(
      message_of<ShapeError>([&] { linear_forward(Exec(), WeightLayout::in_out, x, weight, out); }),
      "sdp::kernels::gemm: B (5,4) must have extent 4 on axis 0");
}

}  // namespace
}  // namespace sdp::kernels
