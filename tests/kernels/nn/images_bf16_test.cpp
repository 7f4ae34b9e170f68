// SPDX-License-Identifier: Apache-2.0
// The kernels of residual networks with bf16 storage beside the same kernels in float, on the same
// bf16 numbers: what is summed in float is the same but for the order of the sums, and what is
// stored is that rounded once.
#include "kernels/nn/batch_norm_backward.hpp"
#include "kernels/nn/bias.hpp"
#include "kernels/nn/convolution.hpp"
#include "kernels/nn/pooling.hpp"
#include "tests/kernels/nn/images.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

/// Half the distance of bf16 numbers, and what the order of sums of terms below 1 may change.
constexpr double k_half = 0x1p-8, k_order = 2e-5;

Values rounded(Values values) {
  for (double& value : values) value = static_cast<float>(bf16(value));
  return values;
}

/// Half a unit in the last place, element by element; the norm of the error is smaller yet.
template <class V, class W>
void expect_rounded_once(V const& actual, W const& expected, std::string const& what) {
  static_assert(std::is_same_v<value_t<V>, bf16>);
  const Values a = get_values(actual), e = get_values(expected);
  ASSERT_EQ(a.size(), e.size());
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ASSERT_LE(std::abs(a[i] - e[i]), k_half * std::abs(e[i]) + k_order) << what << " [" << i << "]";
    error += (a[i] - e[i]) * (a[i] - e[i]);
    norm += e[i] * e[i];
  }
  EXPECT_LE(std::sqrt(error), 2.5e-3 * std::sqrt(norm)) << what;
}
template <class V>
void expect_not_rounded(V const& actual, V const& expected, std::string const& what) {
  static_assert(std::is_same_v<value_t<V>, float>);
  expect_close(get_values(actual), get_values(expected), 1e-5, 1.0, what);
}

/// One convolution with images of T.
template <class T>
struct Convolved {
  Convolved(ConvolutionShape const& s, WeightLayout layout) {
    const bool out_in = layout == WeightLayout::out_in;
    const index_t rows = out_in ? s.outputs : s.inputs, cols = out_in ? s.inputs : s.outputs;
    const index_t weights = s.taps() * s.inputs * s.outputs;
    const auto x = images_of<T>(s.images, s.height, s.width, s.inputs,
                                rounded(noise(s.in_pixels() * s.inputs, 1)));
    const auto weight = images_of<T>(rows, cols, s.kernel, s.kernel, rounded(noise(weights, 2)));
    const Values ds = rounded(noise(s.out_pixels() * s.outputs, 3));
    const auto d_out = images_of<T>(s.images, s.out_height(), s.out_width(), s.outputs, ds);
    const auto work = nan_vector<T>(convolution_workspace_size<Exec, T>(s));
    out = images_of<T>(s.images, s.out_height(), s.out_width(), s.outputs, nan_values(ds.size()));
    d_x = images_of<T>(s.images, s.height, s.width, s.inputs, nan_values(x.size()));
    added = images_of<T>(s.images, s.height, s.width, s.inputs,
                         rounded(noise(static_cast<index_t>(x.size()), 4)));
    convolution_forward(Exec(), layout, s.stride, x, weight, work, out);
    convolution_backward_input(Exec(), layout, s.stride, d_out, weight, work, d_x);
    convolution_backward_input(Exec(), layout, s.stride, d_out, weight, work, added, 0.5);
    d_weight = images_of<accum_t<T>>(rows, cols, s.kernel, s.kernel, noise(weights, 5));
    convolution_backward_weight(Exec(), layout, s.stride, x, d_out, work, d_weight);
    // Every second channel of the leading axis.
    std::vector<ColumnRun> runs;
    for (index_t c = 0; c < rows; c += 2) runs.push_back({c, static_cast<index_t>(runs.size()), 1});
    const auto some = static_cast<index_t>(runs.size());
    d_some =
        images_of<accum_t<T>>(some, cols, s.kernel, s.kernel, noise(some * cols * s.taps(), 6));
    convolution_backward_weight(Exec(), layout, s.stride, x, d_out, vector_of_items(runs), work,
                                d_some);
  }

  Images<T> out, d_x, added;
  Images<accum_t<T>> d_weight, d_some;
};

TEST(ImagesBf16, ConvolutionsRoundTheirOutputOnceAndWeightGradientsNever) {
  const ConvolutionShape shapes[] = {
      {1, 1, 1, 1, 1, 3, 1},   {2, 5, 7, 3, 4, 3, 1},   {3, 7, 5, 4, 3, 3, 2},
      {1, 8, 4, 16, 33, 3, 1}, {2, 6, 9, 19, 20, 3, 1}, {3, 5, 5, 7, 6, 1, 1},
      {2, 7, 6, 3, 18, 1, 2},  {17, 4, 4, 3, 5, 3, 1},  {2, 16, 16, 24, 24, 3, 2}};
  for (auto const& shape : shapes)
    for (const auto layout : {WeightLayout::out_in, WeightLayout::in_out}) {
      SCOPED_TRACE(std::to_string(shape.inputs) + " to " + std::to_string(shape.outputs));
      const Convolved<bf16> narrow(shape, layout);
      const Convolved<float> wide(shape, layout);
      expect_rounded_once(narrow.out, wide.out, "out");
      expect_rounded_once(narrow.d_x, wide.d_x, "d_x");
      expect_rounded_once(narrow.added, wide.added, "d_x with beta");
      expect_not_rounded(narrow.d_weight, wide.d_weight, "d_weight");
      expect_not_rounded(narrow.d_some, wide.d_some, "d_weight of some channels");
    }
}

TEST(ImagesBf16, ConvolutionsRefuseAWorkspaceThatIsNotAlignedForTheirSums) {
  const Vector<bf16> work("work", 100);
  const Kokkos::View<bf16*, Kokkos::LayoutRight, Kokkos::MemoryTraits<Kokkos::Unmanaged>> odd(
      work.data() + 1, 99);
  const Images<bf16> one("one", 1, 1, 1, 1);
  EXPECT_EQ(message_of<ShapeError>(
                [&] { convolution_forward(Exec(), WeightLayout::out_in, 1, one, one, odd, one); }),
            "sdp::kernels::convolution_forward: workspace must be aligned");
}

/// Batch norm of 300 rows, with ReLU and a residual, forward and backward.
template <class T>
struct Normed {
  static constexpr index_t k_rows = 300, k_channels = 70;

  Normed() {
    const auto matrix = [](std::uint64_t salt) {
      return matrix_of<T>(k_rows, k_channels, rounded(noise(k_rows * k_channels, salt, -1.0, 2.0)));
    };
    const auto x = matrix(1), residual = matrix(2);
    const auto weight = vector_of<T>(rounded(noise(k_channels, 3, 0.5, 1.5)));
    const auto bias = vector_of<T>(rounded(noise(k_channels, 4)));
    const auto partials = nan_matrix<float>(batch_norm_chunks(k_rows), 2 * k_channels);
    batch_norm_statistics(Exec(), x, 1e-5, 0.1, partials, mean, rstd, running_mean, running_var);
    batch_norm_forward(Exec(), Activation::none, x, mean, rstd, weight, bias, out);
    batch_norm_add_forward(Exec(), Activation::relu, x, mean, rstd, weight, bias, residual, sum);
    // Rounding moves nothing across zero, so ReLU cuts the same elements off in both types.
    const auto d_out = matrix(5);
    batch_norm_backward(Exec(), Activation::relu, d_out, sum, x, mean, rstd, weight, AllChannels{},
                        partials, nan_matrix<float>(2, k_channels), d_x, d_weight, d_bias);
  }

  Vector<float> mean = nan_vector<float>(k_channels), rstd = nan_vector<float>(k_channels);
  Vector<float> running_mean = vector_of<float>(Values(k_channels, 0.25));
  Vector<float> running_var = vector_of<float>(Values(k_channels, 2.0));
  Matrix<T> out = nan_matrix<T>(k_rows, k_channels), sum = nan_matrix<T>(k_rows, k_channels);
  Matrix<T> d_x = nan_matrix<T>(k_rows, k_channels);
  Vector<float> d_weight = vector_of<float>(Values(k_channels, 1.0));
  Vector<float> d_bias = vector_of<float>(Values(k_channels, 1.0));
};

TEST(ImagesBf16, BatchNormRoundsItsOutputOnceAndStatisticsAndSumsNever) {
  const Normed<bf16> narrow;
  const Normed<float> wide;
  expect_not_rounded(narrow.mean, wide.mean, "mean");
  expect_not_rounded(narrow.rstd, wide.rstd, "rstd");
  expect_not_rounded(narrow.running_mean, wide.running_mean, "running_mean");
  expect_not_rounded(narrow.running_var, wide.running_var, "running_var");
  expect_rounded_once(narrow.out, wide.out, "out");
  expect_rounded_once(narrow.sum, wide.sum, "out with residual");
  expect_rounded_once(narrow.d_x, wide.d_x, "d_x");
  expect_close(get_values(narrow.d_weight), get_values(wide.d_weight), 1e-4, 1.0, "d_weight");
  expect_close(get_values(narrow.d_bias), get_values(wide.d_bias), 1e-4, 1.0, "d_bias");
}

TEST(ImagesBf16, PoolingAndBiasRoundOnceToo) {
  const Values values = rounded(noise(3 * 4 * 5 * 7, 1));
  const auto narrow = images_of<bf16>(3, 4, 5, 7, values);
  const auto wide = images_of<float>(3, 4, 5, 7, values);
  const auto pooled = nan_matrix<bf16>(3, 7);
  const auto exact = nan_matrix<float>(3, 7);
  average_pool_forward(Exec(), narrow, pooled);
  average_pool_forward(Exec(), wide, exact);
  expect_rounded_once(pooled, exact, "pooled");
  const auto d_out = rounded(noise(3 * 7, 2));
  average_pool_backward(Exec(), matrix_of<bf16>(3, 7, d_out), narrow);
  average_pool_backward(Exec(), matrix_of<float>(3, 7, d_out), wide);
  expect_rounded_once(narrow, wide, "d_x");
  const auto sums = vector_of<float>(Values(7, 0.5)), expected = vector_of<float>(Values(7, 0.5));
  bias_backward(Exec(), matrix_of<bf16>(3, 7, d_out), sums);
  bias_backward(Exec(), matrix_of<float>(3, 7, d_out), expected);
  expect_not_rounded(sums, expected, "d_bias");
}

}  // namespace
}  // namespace sdp::kernels
