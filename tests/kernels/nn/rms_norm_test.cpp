// SPDX-License-Identifier: Apache-2.0
#include "kernels/nn/rms_norm.hpp"

#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

constexpr double k_eps = 1e-5;
constexpr index_t k_shapes[][2] = {{1, 1},    {1, 7},   {3, 64},  {33, 17},
                                   {65, 100}, {64, 32}, {2081, 3}};

struct Reference {
  Values out, rstd;
};

Reference forward(Values const& x, Values const& weight, index_t rows, index_t cols) {
  Reference result{Values(x.size()), Values(static_cast<std::size_t>(rows))};
  for (index_t n = 0; n < rows; ++n) {
    double sum = 0.0;
    for (index_t j = 0; j < cols; ++j) sum += x[n * cols + j] * x[n * cols + j];
    result.rstd[n] = 1.0 / std::sqrt(sum / static_cast<double>(cols) + k_eps);
    for (index_t j = 0; j < cols; ++j)
      result.out[n * cols + j] = x[n * cols + j] * result.rstd[n] * weight[j];
  }
  return result;
}

template <class T>
class RmsNorm : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(RmsNorm, Types);

TYPED_TEST(RmsNorm, ForwardMatchesScalarReference) {
  using T = TypeParam;
  for (auto const& [rows, cols] : k_shapes) {
    const auto x = matrix_of<T>(rows, cols, noise(rows * cols, 1));
    const auto weight = vector_of<T>(noise(cols, 2));
    const auto out = nan_matrix<T>(rows, cols), again = nan_matrix<T>(rows, cols);
    const auto rstd = nan_vector<accum_t<T>>(rows);
    rms_norm_forward(Exec(), x, weight, k_eps, out, rstd);
    const auto expected = forward(get_values(x), get_values(weight), rows, cols);
    expect_close(get_values(rstd), expected.rstd, 8 * epsilon<accum_t<T>>(), 0.0, "rstd");
    expect_close(get_values(out), expected.out, 8 * epsilon<T>(), 0.0, "out");
    rms_norm_apply(Exec(), x, rstd, weight, again);
    EXPECT_TRUE(same_bits(out, again));
  }
}

TYPED_TEST(RmsNorm, AddForwardIsTheSumThenTheNorm) {
  using T = TypeParam;
  for (auto const& [rows, cols] : k_shapes) {
    const auto x = matrix_of<T>(rows, cols, noise(rows * cols, 3));
    const auto branch = matrix_of<T>(rows, cols, noise(rows * cols, 4));
    const auto weight = vector_of<T>(noise(cols, 5));
    const auto sum = nan_matrix<T>(rows, cols), out = nan_matrix<T>(rows, cols);
    const auto rstd = nan_vector<accum_t<T>>(rows);
    add_rms_norm_forward(Exec(), x, branch, weight, k_eps, sum, out, rstd);
    auto expected_sum = get_values(x);
    const auto added = get_values(branch);
    for (std::size_t i = 0; i < added.size(); ++i) expected_sum[i] += added[i];
    expect_close(get_values(sum), expected_sum, epsilon<T>(), 0.0, "sum");

    const auto plain = nan_matrix<T>(rows, cols);
    const auto plain_rstd = nan_vector<accum_t<T>>(rows);
    rms_norm_forward(Exec(), sum, weight, k_eps, plain, plain_rstd);
    EXPECT_TRUE(same_bits(out, plain));
    EXPECT_TRUE(same_bits(rstd, plain_rstd));

    // In place over either input.
    const auto copy = matrix_of<T>(rows, cols, get_values(branch));
    const auto aliased = nan_matrix<T>(rows, cols);
    add_rms_norm_forward(Exec(), x, copy, weight, k_eps, copy, aliased, rstd);
    EXPECT_TRUE(same_bits(copy, sum));
    EXPECT_TRUE(same_bits(aliased, out));
    add_rms_norm_forward(Exec(), x, branch, weight, k_eps, x, aliased, rstd);
    EXPECT_TRUE(same_bits(x, sum));
    EXPECT_TRUE(same_bits(aliased, out));
  }
}

TYPED_TEST(RmsNorm, BackwardMatchesScalarReferenceAndAccumulates) {
  using T = TypeParam;
  using A = accum_t<T>;
  for (auto const& [rows, cols] : k_shapes) {
    const auto x = matrix_of<T>(rows, cols, noise(rows * cols, 1));
    const auto weight = vector_of<T>(noise(cols, 2));
    const auto d_out = matrix_of<T>(rows, cols, noise(rows * cols, 3));
    const auto before_x = matrix_of<T>(rows, cols, noise(rows * cols, 4));
    const auto before_w = vector_of<A>(noise(cols, 5));
    const auto xs = get_values(x), ws = get_values(weight), ds = get_values(d_out);
    const auto reference = forward(xs, ws, rows, cols);
    auto expected_x = get_values(before_x), expected_w = get_values(before_w);
    for (index_t n = 0; n < rows; ++n) {
      double mean = 0.0;
      for (index_t j = 0; j < cols; ++j)
        mean += ws[j] * ds[n * cols + j] * xs[n * cols + j] * reference.rstd[n];
      mean /= static_cast<double>(cols);
      for (index_t j = 0; j < cols; ++j) {
        const double normal = xs[n * cols + j] * reference.rstd[n];
        expected_x[n * cols + j] += reference.rstd[n] * (ws[j] * ds[n * cols + j] - normal * mean);
        expected_w[j] += ds[n * cols + j] * normal;
      }
    }
    const auto rstd = vector_of<A>(reference.rstd);
    const auto partials = nan_matrix<A>(rms_norm_backward_chunks(rows), cols);
    const auto d_x = matrix_of<T>(rows, cols, get_values(before_x));
    const auto d_w = vector_of<A>(get_values(before_w));
    rms_norm_backward(Exec(), d_out, x, rstd, weight, partials, d_x, d_w);
    expect_close(get_values(d_x), expected_x, 16 * epsilon<T>(), 1.0, "d_x");
    expect_close(get_values(d_w), expected_w, 4 * epsilon<A>() * static_cast<double>(rows + 1), 1.0,
                 "d_weight");

    // Each half alone has the same bits.
    const auto d_x_alone = matrix_of<T>(rows, cols, get_values(before_x));
    rms_norm_backward_input(Exec(), d_out, x, rstd, weight, d_x_alone);
    EXPECT_TRUE(same_bits(d_x, d_x_alone));
    const auto d_w_alone = vector_of<A>(get_values(before_w));
    Kokkos::deep_copy(partials, std::numeric_limits<A>::quiet_NaN());
    rms_norm_backward_weight(Exec(), d_out, x, rstd, partials, d_w_alone);
    EXPECT_TRUE(same_bits(d_w, d_w_alone));
  }
}

TEST(RmsNormReduce, EveryChunkIsAddedOnceOnEveryPath) {
  // Sums of small whole numbers are exact in any order.
  for (const index_t chunks : {1, 63, 64, 65, 129, 4096, 4097})
    for (const index_t cols : {1, 5, 600}) {
      Values partials(static_cast<std::size_t>(chunks * cols)), expected(cols, 0.5);
      for (index_t c = 0; c < chunks; ++c)
        for (index_t j = 0; j < cols; ++j) {
          partials[c * cols + j] = static_cast<double>((c * 31 + j) % 101);
          expected[j] += partials[c * cols + j];
        }
      const auto partial_sums = [&] { return matrix_of<float>(chunks, cols, partials); };
      const auto columns = vector_of<float>(Values(cols, 0.5));
      Details::rms_norm_reduce_by_columns(Exec(), partial_sums(), columns, chunks);
      EXPECT_TRUE(get_values(columns) == expected) << chunks;
      if constexpr (k_is_host<Exec>) {  // a team of one
        const auto tiles = vector_of<float>(Values(cols, 0.5));
        Details::rms_norm_reduce_by_tiles(Exec(), partial_sums(), tiles, chunks);
        EXPECT_TRUE(get_values(tiles) == expected) << chunks;
      }
    }
}

TEST(RmsNormGradient, AgreesWithFiniteDifferences) {
  for (auto const& [rows, cols] : {std::pair<index_t, index_t>{1, 1}, {3, 5}, {35, 4}}) {
    const auto x = noise(rows * cols, 1), weight = noise(cols, 2), c = noise(rows * cols, 3);
    const auto loss = [&](Values const& xs, Values const& ws) {
      const auto out = nan_matrix<double>(rows, cols);
      rms_norm_forward(Exec(), matrix_of<double>(rows, cols, xs), vector_of<double>(ws), k_eps, out,
                       nan_vector<double>(rows));
      return dot(get_values(out), c);
    };
    const auto d_x = matrix_of<double>(rows, cols, Values(x.size(), 0.0));
    const auto d_w = vector_of<double>(Values(weight.size(), 0.0));
    rms_norm_backward(Exec(), matrix_of<double>(rows, cols, c), matrix_of<double>(rows, cols, x),
                      vector_of<double>(forward(x, weight, rows, cols).rstd),
                      vector_of<double>(weight),
                      nan_matrix<double>(rms_norm_backward_chunks(rows), cols), d_x, d_w);
    expect_close(get_values(d_x),
                 numeric_gradient([&](Values const& xs) { return loss(xs, weight); }, x), 1e-7, 1.0,
                 "d_x");
    expect_close(get_values(d_w),
                 numeric_gradient([&](Values const& ws) { return loss(x, ws); }, weight), 1e-7, 1.0,
                 "d_weight");
  }
}

TEST(RmsNormShapes, ZeroRowsAreLegal) {
  const Matrix<float> x("x", 0, 8), partials("partials", 0, 8);
  const Vector<float> rstd("rstd", 0);
  const auto weight = vector_of<float>(noise(8, 1)), d_w = vector_of<float>(noise(8, 2));
  const auto before = get_values(d_w);
  rms_norm_forward(Exec(), x, weight, k_eps, x, rstd);
  rms_norm_backward(Exec(), x, x, rstd, weight, partials, x, d_w);
  EXPECT_EQ(get_values(d_w), before);
}

TEST(RmsNormShapes, MisfitsAreNamed) {
  const Matrix<float> x("x", 4, 8), narrow("narrow", 4, 7), partials("partials", 2, 8);
  const Vector<float> weight("weight", 8), rstd("rstd", 4), three("three", 3);
  const auto expect = [](auto const& f, char const* message) {
    EXPECT_EQ(message_of<ShapeError>(f), std::string("sdp::kernels::") + message);
  };
  expect([&] { rms_norm_forward(Exec(), x, three, k_eps, x, rstd); },
         "rms_norm_forward: weight (3) must have extent 8 on axis 0");
  expect([&] { rms_norm_forward(Exec(), x, weight, k_eps, narrow, rstd); },
         "rms_norm_forward: x (4,8) and out (4,7) do not have the same shape");
  expect([&] { rms_norm_apply(Exec(), x, three, weight, x); },
         "rms_norm_apply: rstd (3) must have extent 4 on axis 0");
  expect([&] { add_rms_norm_forward(Exec(), x, narrow, weight, k_eps, x, x, rstd); },
         "add_rms_norm_forward: x (4,8) and branch (4,7) do not have the same shape");
  expect([&] { rms_norm_backward(Exec(), x, x, rstd, weight, partials, x, weight); },
         "rms_norm_backward: partials (2,8) must have extent 1 on axis 0");
  expect([&] { rms_norm_backward_input(Exec(), narrow, x, rstd, weight, x); },
         "rms_norm_backward_input: x (4,8) and d_out (4,7) do not have the same shape");
  expect([&] { rms_norm_backward_weight(Exec(), x, x, rstd, partials, three); },
         "rms_norm_backward_weight: d_weight (3) must have extent 8 on axis 0");
}

}  // namespace
}  // namespace sdp::kernels
