// SPDX-License-Identifier: Apache-2.0
#include "kernels/nn/embedding.hpp"

#include <algorithm>
#include <numeric>

#include "tests/support/kernel_views.hpp"

namespace sdp::kernels {
namespace {

using namespace sdp::test;
using Tokens = std::vector<std::int32_t>;

struct Case {
  index_t count, vocabulary, cols;
};
// Runs of equal tokens over many chunks of 64 in the last three.
constexpr Case k_cases[] = {{1, 1, 1},     {5, 3, 7},    {64, 1000, 16},
                            {200, 11, 33}, {333, 1, 17}, {1027, 16, 9}};

Tokens tokens_for(Case const& c) {
  Tokens tokens;
  for (const double value : noise(c.count, 9, 0.0, 1.0))
    tokens.push_back(static_cast<std::int32_t>(value * value * static_cast<double>(c.vocabulary)));
  return tokens;
}

/// Workspaces of the path of devices, which tests take on every backend.
Vector<std::int32_t> order_for(index_t count) {
  return Vector<std::int32_t>("order", Details::embedding_order_size(count));
}
template <class A>
Matrix<A> partials_for(index_t count, index_t cols) {
  return nan_matrix<A>(Details::embedding_chunks(count), cols);
}

template <class T>
class Embedding : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(Embedding, Types);

TYPED_TEST(Embedding, ForwardCopiesRows) {
  using T = TypeParam;
  for (Case const& c : k_cases) {
    const auto tokens = tokens_for(c);
    const auto weight = matrix_of<T>(c.vocabulary, c.cols, noise(c.vocabulary * c.cols, 1));
    const auto out = nan_matrix<T>(c.count, c.cols);
    embedding_forward(Exec(), vector_of_items(tokens), weight, out);
    const auto rows = get_values(weight);
    Values expected;
    for (const auto token : tokens)
      expected.insert(expected.end(), rows.begin() + token * c.cols,
                      rows.begin() + (token + 1) * c.cols);
    EXPECT_EQ(get_values(out), expected);
  }
}

TYPED_TEST(Embedding, BackwardAddsRowsOnEveryPath) {
  using T = TypeParam;
  using A = accum_t<T>;
  for (Case const& c : k_cases) {
    const auto tokens = tokens_for(c);
    const auto token_view = vector_of_items(tokens);
    const auto d_out = matrix_of<T>(c.count, c.cols, noise(c.count * c.cols, 2));
    const auto before = noise(c.vocabulary * c.cols, 3);
    const auto ds = get_values(d_out);
    const auto fresh = [&] { return matrix_of<A>(c.vocabulary, c.cols, before); };
    const auto order = order_for(c.count);
    const auto partials = partials_for<A>(c.count, c.cols);
    const auto public_path = fresh(), columns = fresh(), runs = fresh(), again = fresh();
    auto expected = get_values(public_path);
    for (index_t n = 0; n < c.count; ++n)
      for (index_t j = 0; j < c.cols; ++j) expected[tokens[n] * c.cols + j] += ds[n * c.cols + j];
    const double tolerance = epsilon<A>() * static_cast<double>(c.count);
    embedding_backward(Exec(), token_view, d_out, order, partials, public_path);
    expect_close(get_values(public_path), expected, tolerance, 1.0, "d_weight");
    embedding_backward(Exec(), token_view, d_out, order, partials, again);
    EXPECT_TRUE(same_bits(public_path, again));
    Details::embedding_backward_by_columns(Exec(), token_view, d_out, columns);
    expect_close(get_values(columns), expected, tolerance, 1.0, "d_weight by columns");
    Details::embedding_backward_by_runs(Exec(), token_view, d_out, order, partials, runs);
    expect_close(get_values(runs), expected, tolerance, 1.0, "d_weight by runs");
  }
}

/// Positions sorted by (token, position), those outside the table last.
Values sorted_positions(Tokens const& tokens, index_t vocabulary) {
  std::vector<int> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), 0);
  const auto key = [&](int n) {
    return tokens[n] < 0 || tokens[n] >= vocabulary ? vocabulary : index_t{tokens[n]};
  };
  std::stable_sort(positions.begin(), positions.end(),
                   [&](int a, int b) { return key(a) < key(b); });
  return Values(positions.begin(), positions.end());
}

TEST(EmbeddingOrder, SortsByTokenThenPosition) {
  for (const index_t count : {1, 2, 15, 16, 17, 1000, 5003})
    for (const index_t vocabulary : {1, 2, 15, 16, 17, 256, 4095, 128256, 0x7fffffff}) {
      auto tokens = tokens_for({count, vocabulary, 1});
      if (count > 15) {
        tokens[3] = -2;
        tokens[4] = -0x7fffffff - 1;
        tokens[11] = static_cast<std::int32_t>(vocabulary);
        tokens[13] = 0x7fffffff;
      }
      const auto order = order_for(count);
      Details::embedding_order(Exec(), vector_of_items(tokens), vocabulary, order);
      auto positions = get_values(order);
      positions.resize(static_cast<std::size_t>(count));
      EXPECT_EQ(positions, sorted_positions(tokens, vocabulary)) << count << " of " << vocabulary;
    }
}

TEST(EmbeddingRuns, EveryRowIsAddedOnce) {
  // Sums of small whole numbers are exact in any order. Half of the tokens are one of them.
  const index_t cols = 13;
  for (const index_t count : {63, 64, 65, 128, 129, 4099})
    for (const index_t vocabulary : {1, 2, 16, 17, 128256}) {
      auto tokens = tokens_for({count, vocabulary, 1});
      for (std::size_t n = 0; n < tokens.size(); n += 2)
        tokens[n] = static_cast<std::int32_t>(vocabulary / 2);
      Values rows(static_cast<std::size_t>(count * cols));
      for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<double>(i % 127);
      Values expected(static_cast<std::size_t>(vocabulary * cols), 1.0);
      for (index_t n = 0; n < count; ++n)
        for (index_t j = 0; j < cols; ++j) expected[tokens[n] * cols + j] += rows[n * cols + j];
      const auto d_weight = matrix_of<float>(vocabulary, cols, Values(expected.size(), 1.0));
      Details::embedding_backward_by_runs(Exec(), vector_of_items(tokens),
                                          matrix_of<bf16>(count, cols, rows), order_for(count),
                                          partials_for<float>(count, cols), d_weight);
      EXPECT_TRUE(get_values(d_weight) == expected) << count << " of " << vocabulary;
    }
}

TEST(EmbeddingGradient, AgreesWithFiniteDifferences) {
  const auto tokens = vector_of_items<std::int32_t>({2, 0, 2, 1});
  const auto weight = noise(9, 1), c = noise(12, 2);
  const auto loss = [&](Values const& values) {
    const auto out = nan_matrix<double>(4, 3);
    embedding_forward(Exec(), tokens, matrix_of<double>(3, 3, values), out);
    return dot(get_values(out), c);
  };
  const auto d_weight = matrix_of<double>(3, 3, Values(9, 0.0));
  embedding_backward(Exec(), tokens, matrix_of<double>(4, 3, c), order_for(4),
                     partials_for<double>(4, 3), d_weight);
  expect_close(get_values(d_weight), numeric_gradient(loss, weight), 1e-8, 1.0, "d_weight");
}

TEST(EmbeddingRange, TokensOutsideTheTableShowInTheOutputAndAddNothing) {
  const auto tokens = vector_of_items<std::int32_t>({1, 2, -1});
  const auto weight = matrix_of<float>(2, 3, noise(6, 1));
  const auto out = matrix_of<float>(3, 3, noise(9, 2));
  embedding_forward(Exec(), tokens, weight, out);
  const auto values = get_values(out);
  for (int i = 0; i < 9; ++i) EXPECT_EQ(std::isnan(values[i]), i >= 3) << i;
  const auto d_out = matrix_of<float>(3, 3, noise(9, 2));
  const auto added = get_values(d_out);
  const Values expected{0, 0, 0, added[0], added[1], added[2]};
  const auto columns = matrix_of<float>(2, 3, Values(6, 0.0)),
             runs = matrix_of<float>(2, 3, Values(6, 0.0));
  Details::embedding_backward_by_columns(Exec(), tokens, d_out, columns);
  Details::embedding_backward_by_runs(Exec(), tokens, d_out, order_for(3),
                                      partials_for<float>(3, 3), runs);
  EXPECT_EQ(get_values(columns), expected);
  EXPECT_EQ(get_values(runs), expected);
}

TEST(EmbeddingShapes, NoTokensAreLegalAndMisfitsAreNamed) {
  const Vector<std::int32_t> none("none", 0), two("two", 2);
  const Matrix<float> table("table", 4, 3), no_rows("no_rows", 0, 3), out("out", 2, 5),
      rows("rows", 2, 3);
  embedding_forward(Exec(), none, table, no_rows);
  embedding_backward(Exec(), none, no_rows, none, no_rows, table);
  EXPECT_EQ(message_of<ShapeError>([&] { embedding_forward(Exec(), two, table, out); }),
            "sdp::kernels::embedding_forward: out (2,5) must have extent 3 on axis 1");
  EXPECT_EQ(message_of<ShapeError>(
                [&] { embedding_backward(Exec(), two, no_rows, two, no_rows, table); }),
            "sdp::kernels::embedding_backward: d_out (0,3) must have extent 2 on axis 0");
  EXPECT_EQ(message_of<ShapeError>([&] { embedding_forward(Exec(), two, no_rows, rows); }),
            "sdp::kernels::embedding_forward: weight must have at least one row");
  if constexpr (!k_is_host<Exec>) {
    const Matrix<float> d_out("d_out", 2, 3), wide("wide", 1, 4);
    EXPECT_EQ(
        message_of<ShapeError>([&] { embedding_backward(Exec(), two, d_out, two, wide, table); }),
        "sdp::kernels::embedding_backward: order (2) is too short for 2 tokens");
    EXPECT_EQ(message_of<ShapeError>(
                  [&] { embedding_backward(Exec(), two, d_out, order_for(2), no_rows, table); }),
              "sdp::kernels::embedding_backward: partials (0,3) has fewer rows than 1");
    EXPECT_EQ(message_of<ShapeError>(
                  [&] { embedding_backward(Exec(), two, d_out, order_for(2), wide, table); }),
              "sdp::kernels::embedding_backward: partials (1,4) must have extent 3 on axis 1");
  }
}

}  // namespace
}  // namespace sdp::kernels
