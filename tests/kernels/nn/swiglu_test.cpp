// SPDX-License-Identifier: Apache-2.0
#include "kernels/nn/swiglu.hpp"

#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

constexpr index_t k_shapes[][2] = {{1, 1}, {2, 7}, {3, 64}, {5, 129}};

double silu(double g) {
  return g / (1.0 + std::exp(-g));
}

Values forward(Values const& gate_up, index_t rows, index_t cols) {
  Values out(static_cast<std::size_t>(rows * cols));
  for (index_t n = 0; n < rows; ++n)
    for (index_t j = 0; j < cols; ++j)
      out[n * cols + j] = silu(gate_up[n * 2 * cols + j]) * gate_up[n * 2 * cols + cols + j];
  return out;
}

template <class T>
class Swiglu : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(Swiglu, Types);

TYPED_TEST(Swiglu, ForwardMatchesScalarReference) {
  using T = TypeParam;
  for (auto const& [rows, cols] : k_shapes) {
    const auto gate_up = matrix_of<T>(rows, 2 * cols, noise(rows * 2 * cols, 1, -8.0, 8.0));
    const auto out = nan_matrix<T>(rows, cols);
    swiglu_forward(Exec(), gate_up, out);
    expect_close(get_values(out), forward(get_values(gate_up), rows, cols), 8 * epsilon<T>(), 0.0,
                 "out");
  }
}

TYPED_TEST(Swiglu, BackwardReplacesBothArguments) {
  using T = TypeParam;
  for (auto const& [rows, cols] : k_shapes) {
    const auto gate_up = matrix_of<T>(rows, 2 * cols, noise(rows * 2 * cols, 1, -8.0, 8.0));
    const auto d_act = matrix_of<T>(rows, cols, noise(rows * cols, 2));
    const auto before = get_values(gate_up), d = get_values(d_act);
    const auto activation = nan_matrix<T>(rows, cols);
    swiglu_forward(Exec(), gate_up, activation);
    swiglu_backward(Exec(), gate_up, d_act);
    EXPECT_TRUE(same_bits(d_act, activation)) << "the activation of the forward kernel";
    Values expected(before.size());
    for (index_t n = 0; n < rows; ++n)
      for (index_t j = 0; j < cols; ++j) {
        const double g = before[n * 2 * cols + j], u = before[n * 2 * cols + cols + j];
        const double s = 1.0 / (1.0 + std::exp(-g));
        expected[n * 2 * cols + j] = d[n * cols + j] * u * s * (1.0 + g * (1.0 - s));
        expected[n * 2 * cols + cols + j] = d[n * cols + j] * silu(g);
      }
    expect_close(get_values(gate_up), expected, 8 * epsilon<T>(), 1.0, "d_gate_up");
  }
}

TEST(SwigluGradient, AgreesWithFiniteDifferences) {
  const index_t rows = 3, cols = 5;
  const auto x = noise(rows * 2 * cols, 1, -4.0, 4.0), c = noise(rows * cols, 2);
  const auto loss = [&](Values const& values) {
    const auto out = nan_matrix<double>(rows, cols);
    swiglu_forward(Exec(), matrix_of<double>(rows, 2 * cols, values), out);
    return dot(get_values(out), c);
  };
  const auto gate_up = matrix_of<double>(rows, 2 * cols, x);
  swiglu_backward(Exec(), gate_up, matrix_of<double>(rows, cols, c));
  expect_close(get_values(gate_up), numeric_gradient(loss, x), 1e-8, 1.0, "d_gate_up");
}

TEST(SwigluShapes, LargeGatesStayFinite) {
  const auto gate_up = matrix_of<float>(1, 6, {-1e30, -200.0, 200.0, 2.0, 2.0, 2.0});
  const auto out = nan_matrix<float>(1, 3);
  swiglu_forward(Exec(), gate_up, out);
  EXPECT_EQ(get_values(out), (Values{0.0, 0.0, 400.0}));
  swiglu_backward(Exec(), gate_up, matrix_of<float>(1, 3, {1.0, 1.0, 1.0}));
  EXPECT_EQ(get_values(gate_up), (Values{0.0, 0.0, 2.0, 0.0, 0.0, 200.0}));
}

TEST(SwigluShapes, ZeroSizesAreLegalAndMisfitsAreNamed) {
  const Matrix<float> none("none", 0, 8), act("act", 0, 4), two("two", 2, 8), odd("odd", 2, 3);
  swiglu_forward(Exec(), none, act);
  swiglu_backward(Exec(), none, act);
  EXPECT_EQ(message_of<ShapeError>([&] { swiglu_forward(Exec(), two, odd); }),
            "sdp::kernels::swiglu_forward: gate_up (2,8) must have extent 6 on axis 1");
  EXPECT_EQ(message_of<ShapeError>([&] { swiglu_backward(Exec(), two, act); }),
            "sdp::kernels::swiglu_backward: gate_up (2,8) must have extent 0 on axis 0");
}

}  // namespace
}  // namespace sdp::kernels
