// SPDX-License-Identifier: Apache-2.0
#include "kernels/blas/gemm.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace sdp::kernels {
namespace {

template <class T>
using Matrix = Kokkos::View<T**, Kokkos::LayoutRight>;

double entry(index_t i, index_t j, int salt) {
  return static_cast<double>((i * 7 + j * 13 + salt * 5) % 17) / 8.0 - 1.0;
}

template <class T>
Matrix<T> filled(index_t rows, index_t cols, int salt) {
  Matrix<T> matrix("matrix", rows, cols);
  auto host = Kokkos::create_mirror_view(matrix);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) host(i, j) = static_cast<T>(entry(i, j, salt));
  Kokkos::deep_copy(matrix, host);
  return matrix;
}

template <class T>
void check(index_t m, index_t n, index_t k, bool ta, bool tb, double alpha, double beta) {
  auto a = ta ? filled<T>(k, m, 1) : filled<T>(m, k, 1);
  auto b = tb ? filled<T>(n, k, 2) : filled<T>(k, n, 2);
  auto c = filled<T>(m, n, 3);
  if (beta == 0.0) Kokkos::deep_copy(c, std::numeric_limits<T>::quiet_NaN());
  Kokkos::DefaultExecutionSpace exec;
  gemm(exec, ta ? Transpose::yes : Transpose::no, tb ? Transpose::yes : Transpose::no, alpha, a, b,
       beta, c);
  exec.fence();
  auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), c);
  const double tolerance = std::numeric_limits<T>::epsilon() * 8.0 * static_cast<double>(k + 1);
  for (index_t i = 0; i < m; ++i)
    for (index_t j = 0; j < n; ++j) {
      double sum = 0;
      for (index_t l = 0; l < k; ++l)
        sum += (ta ? entry(l, i, 1) : entry(i, l, 1)) * (tb ? entry(j, l, 2) : entry(l, j, 2));
      const double expected = alpha * sum + (beta == 0.0 ? 0.0 : beta * entry(i, j, 3));
      ASSERT_NEAR(host(i, j), expected, tolerance) << m << "x" << n << "x" << k;
    }
}

template <class T>
void check_all() {
  const index_t sizes[][3] = {{1, 1, 1}, {3, 5, 7}, {17, 33, 65}, {64, 1, 128}, {1, 31, 2}};
  for (auto const& size : sizes)
    for (bool ta : {false, true})
      for (bool tb : {false, true})
        for (double beta : {0.0, 1.0, -0.5}) check<T>(size[0], size[1], size[2], ta, tb, 1.5, beta);
}

TEST(Gemm, MatchesScalarReferenceInFloat) { check_all<float>(); }
TEST(Gemm, MatchesScalarReferenceInDouble) { check_all<double>(); }
TEST(Gemm, EmptyProductScales) { check<float>(3, 4, 0, false, false, 1.0, 0.5); }
TEST(Gemm, EmptyResultIsLegal) { check<float>(0, 4, 3, false, true, 1.0, 0.0); }

TEST(Gemm, NamesBothShapesWhenTheyDoNotFit) {
  Matrix<float> a("a", 2, 3), b("b", 4, 5), c("c", 2, 5);
  Kokkos::DefaultExecutionSpace exec;
  try {
    gemm(exec, Transpose::no, Transpose::no, 1.0, a, b, 0.0, c);
    FAIL() << "no exception";
  } catch (ShapeError const& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("B (4,5) must have extent 3"));
  }
}

}  // namespace
}  // namespace sdp::kernels
