// SPDX-License-Identifier: Apache-2.0
#include "kernels/nn/cross_entropy.hpp"

#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

// Wider than one stretch of columns of the host kernel in the last two.
constexpr index_t k_shapes[][2] = {{1, 1}, {2, 3}, {5, 97}, {3, 1024}, {4, 2500}};

/// Losses, and the gradient of their sum in `gradient`.
Values reference(Values const& logits, std::vector<std::int32_t> const& targets, index_t cols,
                 double smoothing, Values& gradient) {
  Values losses;
  gradient.assign(logits.size(), 0.0);
  for (std::size_t n = 0; n < targets.size(); ++n) {
    if (targets[n] < 0) {
      losses.push_back(0.0);
      continue;
    }
    double const* x = &logits[n * static_cast<std::size_t>(cols)];
    const double largest = *std::max_element(x, x + cols);
    double sum = 0.0;
    for (index_t v = 0; v < cols; ++v) sum += std::exp(x[v] - largest);
    const double lse = largest + std::log(sum);
    double loss = 0.0;
    for (index_t v = 0; v < cols; ++v) {
      const double wanted =
          (v == targets[n] ? 1.0 - smoothing : 0.0) + smoothing / static_cast<double>(cols);
      loss += wanted * (lse - x[v]);
      gradient[n * static_cast<std::size_t>(cols) + static_cast<std::size_t>(v)] =
          std::exp(x[v] - lse) - wanted;
    }
    losses.push_back(loss);
  }
  return losses;
}

std::vector<std::int32_t> targets_for(index_t rows, index_t cols) {
  std::vector<std::int32_t> targets;
  for (index_t n = 0; n < rows; ++n)
    targets.push_back(n == 1 ? -1 : static_cast<std::int32_t>((n * 37 + cols - 1) % cols));
  return targets;
}

template <class T>
class CrossEntropy : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CrossEntropy, Types);

TYPED_TEST(CrossEntropy, MatchesScalarReference) {
  using T = TypeParam;
  using A = accum_t<T>;
  for (auto const& [rows, cols] : k_shapes)
    for (const double smoothing : {0.0, 0.1}) {
      const auto logits = matrix_of<T>(rows, cols, noise(rows * cols, 1, -12.0, 12.0));
      const auto targets = targets_for(rows, cols);
      const auto target_view = vector_of_items(targets);
      Values gradient;
      const auto losses = reference(get_values(logits), targets, cols, smoothing, gradient);
      const auto forward = nan_vector<A>(rows), fused = nan_vector<A>(rows);
      cross_entropy_forward(Exec(), logits, target_view, forward, smoothing);
      expect_close(get_values(forward), losses, 16 * epsilon<A>(), 1.0, "losses");
      const double scale = 0.25;
      for (double& value : gradient) value *= scale;
      cross_entropy_forward_backward(Exec(), logits, target_view, scale, fused, smoothing);
      expect_close(get_values(fused), losses, 16 * epsilon<A>(), 1.0, "losses of the fused kernel");
      // exp(x - max) loses about |x - max| ulp.
      expect_close(get_values(logits), gradient, 2 * epsilon<T>() + 32 * epsilon<A>(), 1e-3,
                   "d_logits");
    }
}

TEST(CrossEntropyGradient, AgreesWithFiniteDifferences) {
  const index_t rows = 3, cols = 7;
  const std::vector<std::int32_t> targets{6, -1, 0};
  const auto target_view = vector_of_items(targets);
  for (const double smoothing : {0.0, 0.2}) {
    const auto x = noise(rows * cols, 5, -3.0, 3.0);
    const auto loss = [&](Values const& values) {
      const auto losses = nan_vector<double>(rows);
      cross_entropy_forward(Exec(), matrix_of<double>(rows, cols, values), target_view, losses,
                            smoothing);
      return 0.5 * dot(get_values(losses), Values(3, 1.0));
    };
    const auto logits = matrix_of<double>(rows, cols, x);
    cross_entropy_forward_backward(Exec(), logits, target_view, 0.5, nan_vector<double>(rows),
                                   smoothing);
    expect_close(get_values(logits), numeric_gradient(loss, x), 1e-8, 1.0, "d_logits");
  }
}

TEST(CrossEntropyValues, ExtremeLogits) {
  const auto targets = vector_of_items<std::int32_t>({0, 1, 2, 0});
  const auto logits = matrix_of<float>(4, 3,
                                       {1e30, -1e30, 0.0,          // certain
                                        -HUGE_VAL, 5.0, 5.0,       // one class ruled out
                                        -3e4, -3e4, -3e4,          // far below the range of exp
                                        std::nan(""), 0.0, 0.0});  // broken
  const auto losses = nan_vector<float>(4);
  cross_entropy_forward_backward(Exec(), logits, targets, 1.0, losses);
  const auto values = get_values(losses);
  EXPECT_EQ(values[0], 0.0);
  EXPECT_NEAR(values[1], std::log(2.0), 1e-6);
  EXPECT_NEAR(values[2], std::log(3.0), 4e-3);  // the float next to -3e4 + log(3)
  EXPECT_TRUE(std::isnan(values[3]));
  const auto gradient = get_values(logits);
  EXPECT_EQ(gradient[0], 0.0);
  EXPECT_EQ(gradient[3], 0.0);
  EXPECT_NEAR(gradient[4], -0.5, 1e-6);
  EXPECT_NEAR(gradient[8], 1.0 / 3.0 - 1.0, 1e-6);
  EXPECT_TRUE(std::isnan(gradient[10]));
}

TEST(CrossEntropyValues, IgnoredAndImpossibleTargets) {
  const auto targets = vector_of_items<std::int32_t>({-100, 3});
  const auto logits = matrix_of<double>(2, 3, noise(6, 1)),
             copy = matrix_of<double>(2, 3, noise(6, 1));
  const auto losses = nan_vector<double>(2), forward = vector_of<double>({7.0, 7.0});
  cross_entropy_forward(Exec(), logits, targets, forward);
  cross_entropy_forward_backward(Exec(), copy, targets, 1.0, losses);
  EXPECT_EQ(get_values(forward)[0], 0.0);
  EXPECT_TRUE(std::isnan(get_values(forward)[1]));
  EXPECT_EQ(get_values(losses)[0], 0.0);
  EXPECT_TRUE(std::isnan(get_values(losses)[1]));
  const auto gradient = get_values(copy);
  for (int v = 0; v < 3; ++v) EXPECT_EQ(gradient[v], 0.0);
  for (int v = 3; v < 6; ++v) EXPECT_TRUE(std::isnan(gradient[v]));
}

TEST(CrossEntropyShapes, ZeroRowsAreLegalAndMisfitsAreNamed) {
  const Matrix<float> none("none", 0, 4), two("two", 2, 4), empty("empty", 2, 0);
  const Vector<std::int32_t> no_targets("t", 0), targets("t", 2);
  const Vector<float> no_losses("l", 0), losses("l", 3), two_losses("l", 2);
  cross_entropy_forward(Exec(), none, no_targets, no_losses);
  cross_entropy_forward_backward(Exec(), none, no_targets, 1.0, no_losses);
  EXPECT_EQ(message_of<ShapeError>([&] { cross_entropy_forward(Exec(), two, no_targets, losses); }),
            "sdp::kernels::cross_entropy_forward: targets (0) must have extent 2 on axis 0");
  EXPECT_EQ(
      message_of<ShapeError>(
          [&] { cross_entropy_forward_backward(Exec(), two, targets, 1.0, losses); }),
      "sdp::kernels::cross_entropy_forward_backward: losses (3) must have extent 2 on axis 0");
  EXPECT_EQ(
      message_of<ShapeError>([&] { cross_entropy_forward(Exec(), empty, targets, two_losses); }),
      "sdp::kernels::cross_entropy_forward: logits must have at least one column");
}

}  // namespace
}  // namespace sdp::kernels
