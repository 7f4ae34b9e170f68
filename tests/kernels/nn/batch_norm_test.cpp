// SPDX-License-Identifier: Apache-2.0
#include "kernels/nn/batch_norm_backward.hpp"

#include <array>
#include <vector>

#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;

constexpr double k_eps = 1e-5;
constexpr index_t k_shapes[][2] = {{2, 1},     {3, 7},  {129, 64}, {257, 65}, {1000, 3},
                                   {128, 130}, {31, 8}, {33, 24},  {383, 72}, {5, 136}};

struct Reference {
  Values mean, variance, rstd;
};

Reference statistics(Values const& x, index_t rows, index_t cols) {
  const auto size = static_cast<std::size_t>(cols);
  Reference r{Values(size, 0.0), Values(size, 0.0), Values(size)};
  for (index_t i = 0; i < rows * cols; ++i) r.mean[i % cols] += x[i] / static_cast<double>(rows);
  for (index_t i = 0; i < rows * cols; ++i)
    r.variance[i % cols] += std::pow(x[i] - r.mean[i % cols], 2) / static_cast<double>(rows);
  for (index_t c = 0; c < cols; ++c) r.rstd[c] = 1.0 / std::sqrt(r.variance[c] + k_eps);
  return r;
}

Values forward(Values const& x, Reference const& r, Values const& weight, Values const& bias,
               Values const* residual, Activation activation) {
  Values out(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t c = i % weight.size();
    out[i] = (x[i] - r.mean[c]) * r.rstd[c] * weight[c] + bias[c];
    if (residual) out[i] += (*residual)[i];
    if (activation == Activation::relu) out[i] = std::max(out[i], 0.0);
  }
  return out;
}

template <class T>
class BatchNorm : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(BatchNorm, Types);

TYPED_TEST(BatchNorm, StatisticsMatchScalarReferenceFarFromZero) {
  using T = TypeParam;
  for (auto const& [rows, cols] : k_shapes) {
    // A mean 50 times the deviation: sums of squares would lose it.
    const auto x = matrix_of<T>(rows, cols, noise(rows * cols, 1, 28.0, 30.0));
    const auto mean = nan_vector<T>(cols), rstd = nan_vector<T>(cols);
    const auto running_mean = vector_of<T>(noise(cols, 2)),
               running_var = vector_of<T>(noise(cols, 3));
    auto expected_mean = get_values(running_mean), expected_var = get_values(running_var);
    batch_norm_statistics(Exec(), x, k_eps, 0.1, nan_matrix<T>(batch_norm_chunks(rows), 2 * cols),
                          mean, rstd, running_mean, running_var);
    const auto expected = statistics(get_values(x), rows, cols);
    for (index_t c = 0; c < cols; ++c) {
      const double unbiased =
          expected.variance[c] * static_cast<double>(rows) / static_cast<double>(rows - 1);
      expected_mean[c] = 0.9 * expected_mean[c] + 0.1 * expected.mean[c];
      expected_var[c] = 0.9 * expected_var[c] + 0.1 * unbiased;
    }
    expect_close(get_values(mean), expected.mean, 32 * epsilon<T>(), 0.0, "mean");
    expect_close(get_values(rstd), expected.rstd, 2000 * epsilon<T>(), 0.0, "rstd");
    expect_close(get_values(running_mean), expected_mean, 32 * epsilon<T>(), 1.0, "running_mean");
    expect_close(get_values(running_var), expected_var, 2000 * epsilon<T>(), 1.0, "running_var");
  }
}

TYPED_TEST(BatchNorm, ForwardMatchesScalarReferenceWithEveryEnding) {
  using T = TypeParam;
  for (auto const& [rows, cols] : k_shapes)
    for (const auto activation : {Activation::none, Activation::relu}) {
      const auto x = matrix_of<T>(rows, cols, noise(rows * cols, 1));
      const auto residual = matrix_of<T>(rows, cols, noise(rows * cols, 2));
      const auto weight = vector_of<T>(noise(cols, 3)), bias = vector_of<T>(noise(cols, 4));
      const auto r = statistics(get_values(x), rows, cols);
      const auto mean = vector_of<T>(r.mean), rstd = vector_of<T>(r.rstd);
      const auto out = nan_matrix<T>(rows, cols), sum = nan_matrix<T>(rows, cols);
      batch_norm_forward(Exec(), activation, x, mean, rstd, weight, bias, out);
      batch_norm_add_forward(Exec(), activation, x, mean, rstd, weight, bias, residual, sum);
      const auto xs = get_values(x), ws = get_values(weight), bs = get_values(bias);
      const auto residuals = get_values(residual);
      const double tolerance = 32 * epsilon<T>();
      expect_close(get_values(out), forward(xs, r, ws, bs, nullptr, activation), tolerance, 1.0,
                   "out");
      expect_close(get_values(sum), forward(xs, r, ws, bs, &residuals, activation), tolerance, 1.0,
                   "out of the add");
      // In place over the residual, then over x.
      batch_norm_add_forward(Exec(), activation, x, mean, rstd, weight, bias, residual, residual);
      EXPECT_TRUE(same_bits(residual, sum));
      batch_norm_forward(Exec(), activation, x, mean, rstd, weight, bias, x);
      EXPECT_TRUE(same_bits(x, out));
    }
}

TYPED_TEST(BatchNorm, InferenceUsesTheRunningVariance) {
  const auto variance = vector_of<TypeParam>({0.0, 1.0, 0.25, 1e4});
  const auto rstd = nan_vector<TypeParam>(4);
  batch_norm_inference_rstd(Exec(), variance, k_eps, rstd);
  expect_close(get_values(rstd),
               {1 / std::sqrt(k_eps), 1 / std::sqrt(1 + k_eps), 1 / std::sqrt(0.25 + k_eps),
                1 / std::sqrt(1e4 + k_eps)},
               4 * epsilon<TypeParam>(), 0.0, "rstd");
}

TYPED_TEST(BatchNorm, BackwardMatchesScalarReferenceAndAccumulates) {
  using T = TypeParam;
  for (auto const& [rows, cols] : k_shapes)
    for (const auto activation : {Activation::none, Activation::relu}) {
      const auto x = matrix_of<T>(rows, cols, noise(rows * cols, 1));
      const auto weight = vector_of<T>(noise(cols, 2));
      const auto d_out = matrix_of<T>(rows, cols, noise(rows * cols, 3));
      const auto out = matrix_of<T>(rows, cols, noise(rows * cols, 4));
      const auto d_weight = vector_of<T>(noise(cols, 5)), d_bias = vector_of<T>(noise(cols, 6));
      auto expected_w = get_values(d_weight), expected_b = get_values(d_bias);
      const auto xs = get_values(x), ws = get_values(weight), outs = get_values(out);
      const auto r = statistics(xs, rows, cols);
      auto d = get_values(d_out);
      Values sum(static_cast<std::size_t>(cols), 0.0), product(sum);
      for (std::size_t i = 0; i < d.size(); ++i) {
        const std::size_t c = i % sum.size();
        if (activation == Activation::relu && outs[i] <= 0.0) d[i] = 0.0;
        sum[c] += d[i];
        product[c] += d[i] * (xs[i] - r.mean[c]) * r.rstd[c];
      }
      Values expected_x(d.size());
      for (std::size_t i = 0; i < d.size(); ++i) {
        const std::size_t c = i % sum.size();
        const double normal = (xs[i] - r.mean[c]) * r.rstd[c];
        expected_x[i] =
            ws[c] * r.rstd[c] * (d[i] - (sum[c] + normal * product[c]) / static_cast<double>(rows));
      }
      for (index_t c = 0; c < cols; ++c) {
        expected_w[c] += product[c];
        expected_b[c] += sum[c];
      }
      const auto d_x = nan_matrix<T>(rows, cols), sums = nan_matrix<T>(2, cols);
      batch_norm_backward(Exec(), activation, d_out, out, x, vector_of<T>(r.mean),
                          vector_of<T>(r.rstd), weight, AllChannels{},
                          nan_matrix<T>(batch_norm_chunks(rows), 2 * cols), sums, d_x, d_weight,
                          d_bias);
      const double tolerance = epsilon<T>() * static_cast<double>(rows + 32);
      EXPECT_EQ(get_values(d_out), d);
      expect_close(get_values(d_x), expected_x, 2 * tolerance, 1.0, "d_x");
      expect_close(get_values(d_weight), expected_w, tolerance, 2.0, "d_weight");
      expect_close(get_values(d_bias), expected_b, tolerance, 1.0, "d_bias");
    }
}

TEST(BatchNormAccuracy, StatisticsDoNotSufferFromRowsThatAreFarOff) {
  using T = float;
  const index_t rows = 300, cols = 24;
  auto values = noise(rows * cols, 1, 28.0, 30.0);
  for (const index_t row : {0, 1, 33, 128, 299})
    for (index_t c = 0; c < cols; ++c) values[row * cols + c] = c % 2 ? 1e4 : 0.0;
  for (index_t row = 0; row < rows; ++row) values[row * cols + 5] = 0.1;  // no variance at all
  const auto x = matrix_of<T>(rows, cols, values);
  const auto mean = nan_vector<T>(cols), rstd = nan_vector<T>(cols);
  batch_norm_statistics(Exec(), x, k_eps, 0.1, nan_matrix<T>(batch_norm_chunks(rows), 2 * cols),
                        mean, rstd, vector_of<T>(Values(cols, 0.0)),
                        vector_of<T>(Values(cols, 0.0)));
  const auto expected = statistics(get_values(x), rows, cols);
  expect_close(get_values(mean), expected.mean, 32 * epsilon<T>(), 0.0, "mean");
  expect_close(get_values(rstd), expected.rstd, 256 * epsilon<T>(), 0.0, "rstd");
}

TEST(BatchNormAccuracy, SumsOfManyRowsAreExactToAFewRoundings) {
  using T = float;
  const index_t rows = 131072 + 421, cols = 4;
  const auto x = matrix_of<T>(rows, cols, noise(rows * cols, 1, 2.0, 4.0));
  const auto d_out = matrix_of<T>(rows, cols, noise(rows * cols, 2));
  const auto partials = nan_matrix<T>(batch_norm_chunks(rows), 2 * cols);
  const auto mean = nan_vector<T>(cols), rstd = nan_vector<T>(cols);
  batch_norm_statistics(Exec(), x, k_eps, 0.1, partials, mean, rstd,
                        vector_of<T>(Values(cols, 0.0)), vector_of<T>(Values(cols, 0.0)));
  const auto xs = get_values(x), ds = get_values(d_out);
  const auto expected = statistics(xs, rows, cols);
  expect_close(get_values(mean), expected.mean, 4 * epsilon<T>(), 0.0, "mean");
  expect_close(get_values(rstd), expected.rstd, 64 * epsilon<T>(), 0.0, "rstd");
  const auto centre = get_values(mean), scale = get_values(rstd);
  Values sum(cols, 0.0), product(cols, 0.0);
  for (std::size_t i = 0; i < ds.size(); ++i) {
    const std::size_t c = i % cols;
    sum[c] += ds[i];
    product[c] += ds[i] * (xs[i] - centre[c]) * scale[c];
  }
  const auto d_weight = vector_of<T>(Values(cols, 0.0)), d_bias = vector_of<T>(Values(cols, 0.0));
  batch_norm_backward(Exec(), Activation::none, d_out, d_out, x, mean, rstd,
                      vector_of<T>(Values(cols, 1.0)), AllChannels{}, partials,
                      nan_matrix<T>(2, cols), nan_matrix<T>(rows, cols), d_weight, d_bias);
  const double random_walk = std::sqrt(static_cast<double>(rows));
  expect_close(get_values(d_bias), sum, 4 * epsilon<T>(), random_walk, "d_bias");
  expect_close(get_values(d_weight), product, 4 * epsilon<T>(), random_walk, "d_weight");
}

template <class T>
using RowsOf = Kokkos::View<T**, Kokkos::LayoutRight, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

/// Everything that batch norm computes, from matrices that begin `offset` elements into buffers.
template <class T>
std::vector<Values> all_outputs(index_t rows, index_t cols, index_t offset) {
  using A = accum_t<T>;
  std::vector<Vector<T>> buffers;
  const auto matrix = [&](std::uint64_t salt) {
    auto values = noise(offset, 50);
    const auto rest = noise(rows * cols, salt);
    values.insert(values.end(), rest.begin(), rest.end());
    buffers.push_back(vector_of<T>(values));
    return RowsOf<T>(buffers.back().data() + offset, rows, cols);
  };
  const auto x = matrix(1), residual = matrix(2), out = matrix(3), sum = matrix(4), d = matrix(5),
             d_x = matrix(6);
  const auto partials = nan_matrix<A>(batch_norm_chunks(rows), 2 * cols);
  const auto mean = nan_vector<A>(cols), rstd = nan_vector<A>(cols);
  const auto running_mean = vector_of<A>(noise(cols, 7)),
             running_var = vector_of<A>(noise(cols, 8));
  const auto weight = vector_of<A>(noise(cols, 9)), bias = vector_of<A>(noise(cols, 10));
  const auto d_weight = vector_of<A>(noise(cols, 11)), d_bias = vector_of<A>(noise(cols, 12));
  batch_norm_statistics(Exec(), x, k_eps, 0.1, partials, mean, rstd, running_mean, running_var);
  batch_norm_forward(Exec(), Activation::none, x, mean, rstd, weight, bias, out);
  batch_norm_add_forward(Exec(), Activation::relu, x, mean, rstd, weight, bias, residual, sum);
  batch_norm_backward(Exec(), Activation::relu, d, sum, x, mean, rstd, weight, AllChannels{},
                      partials, nan_matrix<A>(2, cols), d_x, d_weight, d_bias);
  std::vector<Values> outputs;
  for (auto const& vector : {mean, rstd, running_mean, running_var, d_weight, d_bias})
    outputs.push_back(get_values(vector));
  for (auto const& buffer : buffers) {
    auto values = get_values(buffer);
    EXPECT_EQ(Values(values.begin(), values.begin() + offset),
              get_values(vector_of<T>(noise(offset, 50))));
    outputs.emplace_back(values.begin() + offset, values.end());
  }
  return outputs;
}

template <class T>
class BatchNormBits : public ::testing::Test {};
using StorageTypes = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(BatchNormBits, StorageTypes);

TYPED_TEST(BatchNormBits, AreTheSameAgainAndFromAnyAddress) {
  using T = TypeParam;
  constexpr index_t k_group_of_16_bytes = 16 / sizeof(T);
  for (auto const& [rows, groups] : {std::array<index_t, 2>{300, 9}, {131, 1}, {2, 3}}) {
    const index_t cols = groups * k_group_of_16_bytes;
    const auto once = all_outputs<T>(rows, cols, 0);
    EXPECT_EQ(all_outputs<T>(rows, cols, 0), once) << rows << " x " << cols;
    EXPECT_EQ(all_outputs<T>(rows, cols, 1), once) << rows << " x " << cols;
  }
}

TEST(BatchNormGradient, OfSomeChannelsIsThatPartOfTheWholeAndDxIsTheSame) {
  const index_t rows = 130, cols = 70;
  const auto x = matrix_of<float>(rows, cols, noise(rows * cols, 1));
  const auto out = matrix_of<float>(rows, cols, noise(rows * cols, 4));
  const auto weight = vector_of<float>(noise(cols, 2));
  const auto mean = vector_of<float>(noise(cols, 5)), rstd = vector_of<float>(noise(cols, 6, 1, 2));
  const auto partials = nan_matrix<float>(batch_norm_chunks(rows), 2 * cols);
  const auto run = [&](auto const& channels, auto const& d_weight, auto const& d_bias) {
    const auto d_out = matrix_of<float>(rows, cols, noise(rows * cols, 3));
    // d_x in place of d_out
    batch_norm_backward(Exec(), Activation::relu, d_out, out, x, mean, rstd, weight, channels,
                        partials, nan_matrix<float>(2, cols), d_out, d_weight, d_bias);
    return get_values(d_out);
  };
  const auto d_weight = vector_of<float>(Values(cols, 0.0)),
             d_bias = vector_of<float>(Values(cols, 0.0));
  const auto all = run(AllChannels{}, d_weight, d_bias);
  const auto runs = vector_of_items(std::vector<ColumnRun>{{60, 3, 4}, {5, 0, 3}});
  const auto some_weight = vector_of<float>(Values(7, 0.0)),
             some_bias = vector_of<float>(Values(7, 0.0));
  EXPECT_EQ(run(runs, some_weight, some_bias), all);
  const auto pick = [](Values const& from) {
    return Values{from[5], from[6], from[7], from[60], from[61], from[62], from[63]};
  };
  EXPECT_EQ(get_values(some_weight), pick(get_values(d_weight)));
  EXPECT_EQ(get_values(some_bias), pick(get_values(d_bias)));
  const Vector<float> none("none", 0);
  EXPECT_EQ(run(Vector<ColumnRun>("runs", 0), none, none), all);
}

TEST(BatchNormGradient, AgreesWithFiniteDifferences) {
  const index_t rows = 5, cols = 3;
  const auto x = noise(rows * cols, 1), weight = noise(cols, 2), bias = noise(cols, 3);
  const auto residual = noise(rows * cols, 4), cost = noise(rows * cols, 5);
  const auto mean = nan_vector<double>(cols), rstd = nan_vector<double>(cols);
  const auto partials = nan_matrix<double>(batch_norm_chunks(rows), 2 * cols);
  const auto forward_pass = [&](Values const& xs, Values const& ws, Values const& bs,
                                Values const& rs) {
    const auto out = nan_matrix<double>(rows, cols);
    const auto input = matrix_of<double>(rows, cols, xs);
    batch_norm_statistics(Exec(), input, k_eps, 0.1, partials, mean, rstd,
                          vector_of<double>(Values(cols, 0.0)),
                          vector_of<double>(Values(cols, 1.0)));
    batch_norm_add_forward(Exec(), Activation::relu, input, mean, rstd, vector_of<double>(ws),
                           vector_of<double>(bs), matrix_of<double>(rows, cols, rs), out);
    return out;
  };
  const auto loss = [&](Values const& xs, Values const& ws, Values const& bs, Values const& rs) {
    return dot(get_values(forward_pass(xs, ws, bs, rs)), cost);
  };
  const auto out = forward_pass(x, weight, bias, residual);
  const auto d_out = matrix_of<double>(rows, cols, cost), d_x = nan_matrix<double>(rows, cols);
  const auto d_weight = vector_of<double>(Values(cols, 0.0)),
             d_bias = vector_of<double>(Values(cols, 0.0));
  batch_norm_backward(Exec(), Activation::relu, d_out, out, matrix_of<double>(rows, cols, x), mean,
                      rstd, vector_of<double>(weight), AllChannels{}, partials,
                      nan_matrix<double>(2, cols), d_x, d_weight, d_bias);
  const auto expect = [](Values const& actual, Values const& numeric, char const* what) {
    expect_close(actual, numeric, 1e-7, 1.0, what);
  };
  expect(get_values(d_x),
         numeric_gradient([&](Values const& v) { return loss(v, weight, bias, residual); }, x),
         "d_x");
  expect(get_values(d_weight),
         numeric_gradient([&](Values const& v) { return loss(x, v, bias, residual); }, weight),
         "d_weight");
  expect(get_values(d_bias),
         numeric_gradient([&](Values const& v) { return loss(x, weight, v, residual); }, bias),
         "d_bias");
  expect(get_values(d_out),
         numeric_gradient([&](Values const& v) { return loss(x, weight, bias, v); }, residual),
         "d_residual");
}

TEST(BatchNormShapes, NoChannelsAreLegalAndMisfitsAreNamed) {
  const Matrix<float> empty("empty", 4, 0), partials("partials", 1, 0), sums("sums", 2, 0);
  const Vector<float> none("none", 0), four("four", 4);
  batch_norm_statistics(Exec(), empty, k_eps, 0.1, partials, none, none, none, none);
  batch_norm_forward(Exec(), Activation::relu, empty, none, none, none, none, empty);
  batch_norm_backward(Exec(), Activation::relu, empty, empty, empty, none, none, none,
                      AllChannels{}, partials, sums, empty, none, none);
  const auto expect = [](auto const& f, char const* message) {
    EXPECT_EQ(message_of<ShapeError>(f), std::string("sdp::kernels::batch_norm_") + message);
  };
  const Matrix<float> x("x", 4, 3), one("one", 1, 3), narrow("narrow", 4, 2);
  const Vector<float> three("three", 3);
  expect(
      [&] { batch_norm_statistics(Exec(), one, k_eps, 0.1, partials, three, three, three, three); },
      "statistics: x (1,3) must have at least 2 rows");
  expect(
      [&] { batch_norm_statistics(Exec(), x, k_eps, 0.1, partials, three, three, three, three); },
      "statistics: partials (1,0) must have extent 6 on axis 1");
  expect([&] { batch_norm_forward(Exec(), Activation::none, x, three, three, four, three, x); },
         "forward: weight (4) must have extent 3 on axis 0");
  expect(
      [&] {
        batch_norm_add_forward(Exec(), Activation::none, x, three, three, three, three, narrow, x);
      },
      "add_forward: x (4,3) and residual (4,2) do not have the same shape");
}

}  // namespace
}  // namespace sdp::kernels
