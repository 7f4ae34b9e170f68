// SPDX-License-Identifier: Apache-2.0
#include "kernels/nn/pooling.hpp"

#include "kernels/nn/bias.hpp"
#include "tests/kernels/nn/images.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

constexpr index_t k_shapes[][4] = {{1, 1, 1, 1}, {3, 4, 4, 5}, {2, 3, 5, 33}, {2, 4, 4, 64}};

template <class T>
class Pooling : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Pooling, Types);

TYPED_TEST(Pooling, ForwardAndBackwardMatchScalarReference) {
  using T = TypeParam;
  for (auto const& [images, height, width, channels] : k_shapes) {
    const index_t pixels = height * width;
    const auto x =
        images_of<T>(images, height, width, channels, noise(images * pixels * channels, 1));
    const auto out = nan_matrix<T>(images, channels);
    average_pool_forward(Exec(), x, out);
    const auto d_out = matrix_of<T>(images, channels, noise(images * channels, 2));
    const auto d_x = images_of<T>(images, height, width, channels, nan_values(x.size()));
    average_pool_backward(Exec(), d_out, d_x);
    const auto xs = get_values(x), ds = get_values(d_out);
    Values expected_out(out.size(), 0.0), expected_d_x(x.size());
    for (std::size_t i = 0; i < xs.size(); ++i) {
      const std::size_t to = i / (pixels * channels) * channels + i % channels;
      expected_out[to] += xs[i] / static_cast<double>(pixels);
      expected_d_x[i] = ds[to] / static_cast<double>(pixels);
    }
    expect_close(get_values(out), expected_out, 16 * epsilon<T>(), 1.0, "out");
    expect_close(get_values(d_x), expected_d_x, 4 * epsilon<T>(), 0.0, "d_x");
  }
}

TEST(PoolingShapes, MisfitsAreNamed) {
  const Images<float> x("x", 2, 3, 3, 4), no_pixels("no_pixels", 2, 0, 3, 4);
  const Matrix<float> out("out", 2, 4), narrow("narrow", 2, 3);
  EXPECT_EQ(message_of<ShapeError>([&] { average_pool_forward(Exec(), x, narrow); }),
            "sdp::kernels::average_pool_forward: out (2,3) must have extent 4 on axis 1");
  EXPECT_EQ(message_of<ShapeError>([&] { average_pool_backward(Exec(), out, no_pixels); }),
            "sdp::kernels::average_pool_backward: d_x (2,0,3,4) must have pixels");
}

TYPED_TEST(Pooling, BiasIsAddedToEveryRowAndItsGradientIsTheSumOfThem) {
  using T = TypeParam;
  for (const index_t rows : {0, 1, 7, 300}) {
    const auto bias = vector_of<T>(noise(5, 1)), d_bias = vector_of<T>(noise(5, 2));
    const auto out = matrix_of<T>(rows, 5, noise(rows * 5, 3));
    auto expected = get_values(out), expected_d = get_values(d_bias);
    const auto b = get_values(bias);
    for (index_t i = 0; i < rows * 5; ++i) {
      expected_d[i % 5] += expected[i];
      expected[i] += b[i % 5];
    }
    bias_backward(Exec(), out, d_bias);
    bias_forward(Exec(), bias, out);
    expect_close(get_values(out), expected, 2 * epsilon<T>(), 1.0, "out");
    const double tolerance = epsilon<T>() * static_cast<double>(rows + 16);
    expect_close(get_values(d_bias), expected_d, tolerance, 1.0, "d_bias");
  }
}

TEST(BiasShapes, MisfitsAreNamed) {
  const Matrix<float> out("out", 2, 4);
  EXPECT_EQ(message_of<ShapeError>([&] { bias_forward(Exec(), Vector<float>("b", 3), out); }),
            "sdp::kernels::bias_forward: bias (3) must have extent 4 on axis 0");
  EXPECT_EQ(message_of<ShapeError>([&] { bias_backward(Exec(), out, Vector<float>("b", 3)); }),
            "sdp::kernels::bias_backward: d_bias (3) must have extent 4 on axis 0");
}

}  // namespace
}  // namespace sdp::kernels
