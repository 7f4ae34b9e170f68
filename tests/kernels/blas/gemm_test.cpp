// SPDX-License-Identifier: Apache-2.0
#include "kernels/blas/gemm.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
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

/// Products of bf16 matrices: rounded once to C, with sums that a bf16 accumulator would lose.
template <class C, class Multiply>
void check_narrow(index_t m, index_t n, index_t k, bool ta, bool tb, double alpha, double beta,
                  Multiply const& multiply) {
  auto a = ta ? filled<bf16>(k, m, 1) : filled<bf16>(m, k, 1);
  auto b = tb ? filled<bf16>(n, k, 2) : filled<bf16>(k, n, 2);
  auto c = filled<C>(m, n, 3);
  if (beta == 0.0) Kokkos::deep_copy(c, static_cast<C>(std::numeric_limits<float>::quiet_NaN()));
  Kokkos::DefaultExecutionSpace exec;
  multiply(exec, ta ? Transpose::yes : Transpose::no, tb ? Transpose::yes : Transpose::no, alpha, a,
           b, beta, c);
  exec.fence();
  auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), c);
  for (index_t i = 0; i < m; ++i)
    for (index_t j = 0; j < n; ++j) {
      double sum = 0, size = 1;
      for (index_t l = 0; l < k; ++l) {
        const double term =
            (ta ? entry(l, i, 1) : entry(i, l, 1)) * (tb ? entry(j, l, 2) : entry(l, j, 2));
        sum += term;
        size += std::abs(term);
      }
      const double expected = alpha * sum + (beta == 0.0 ? 0.0 : beta * entry(i, j, 3));
      // 2^-8 of the value where C is bf16; of float sums a small multiple of 2^-24 of their size.
      const double tolerance = (std::is_same_v<C, bf16> ? 0x1.01p-8 * std::abs(expected) : 0.0) +
                               0x1p-21 * std::abs(alpha) * size;
      ASSERT_NEAR(static_cast<double>(host(i, j)), expected, tolerance)
          << m << "x" << n << "x" << k;
    }
}

template <class C, class Multiply>
void check_narrow_all(Multiply const& multiply) {
  const index_t sizes[][3] = {{1, 1, 1}, {3, 5, 7}, {129, 33, 600}, {2, 300, 257}, {1, 31, 2}};
  for (auto const& size : sizes)
    for (bool ta : {false, true})
      for (bool tb : {false, true})
        for (double beta : {0.0, 1.0, -0.5})
          check_narrow<C>(size[0], size[1], size[2], ta, tb, 1.5, beta, multiply);
}

constexpr auto k_gemm = [](auto const&... arguments) { gemm(arguments...); };
constexpr auto k_plain = [](auto const& exec, Transpose ta, Transpose tb, double alpha,
                            auto const& a, auto const& b, double beta, auto const& c) {
  Details::plain_gemm(exec, ta, tb, static_cast<float>(alpha), a, b, static_cast<float>(beta), c);
};

TEST(Gemm, SumsBf16InFloat) {
  check_narrow_all<float>(k_gemm);
  check_narrow_all<bf16>(k_gemm);
}
TEST(Gemm, SumsBf16InFloatWithoutALibrary) {
  check_narrow_all<float>(k_plain);
  check_narrow_all<bf16>(k_plain);
}
TEST(Gemm, AddsManyBf16ProductsUpInFloat) {
  // 600 times 1 in a sum that starts at 1024: a bf16 sum would stay there.
  Matrix<bf16> ones("ones", 600, 1), one("one", 1, 1);
  Kokkos::deep_copy(ones, bf16(1.0f));
  Kokkos::deep_copy(one, bf16(1.0f));
  Matrix<float> c("c", 1, 1);
  Kokkos::deep_copy(c, 1024.0f);
  Kokkos::DefaultExecutionSpace exec;
  for (int i = 0; i < 600; ++i) gemm(exec, Transpose::no, Transpose::no, 1.0, one, one, 1.0, c);
  gemm(exec, Transpose::yes, Transpose::no, 1.0, ones, ones, 1.0, c);
  exec.fence();
  float result = 0;
  Kokkos::deep_copy(result, Kokkos::subview(c, 0, 0));
  EXPECT_EQ(result, 2224.0f);
}

template <class T>
void check_all() {
  const index_t sizes[][3] = {{1, 1, 1}, {3, 5, 7}, {17, 33, 65}, {64, 1, 128}, {1, 31, 2}};
  for (auto const& size : sizes)
    for (bool ta : {false, true})
      for (bool tb : {false, true})
        for (double beta : {0.0, 1.0, -0.5}) check<T>(size[0], size[1], size[2], ta, tb, 1.5, beta);
}

TEST(Gemm, MatchesScalarReferenceInFloat) {
  check_all<float>();
}
TEST(Gemm, MatchesScalarReferenceInDouble) {
  check_all<double>();
}
TEST(Gemm, EmptyProductScales) {
  check<float>(3, 4, 0, false, false, 1.0, 0.5);
  check_narrow<bf16>(3, 4, 0, false, false, 1.0, 0.5, k_gemm);
}
TEST(Gemm, EmptyResultIsLegal) {
  check<float>(0, 4, 3, false, true, 1.0, 0.0);
}

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
